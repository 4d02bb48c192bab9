#!/usr/bin/env python3
"""setup_env.py: what bitnet.cpp's script of this name does, for a model that is there already.

    python3 examples/compat/setup_env.py --hf-repo microsoft/BitNet-b1.58-2B-4T -q i2_s
    python3 examples/compat/setup_env.py --model-dir models/BitNet-b1.58-2B-4T -q i2_s

Builds the programs (make compat), and converts the Hugging Face folder models/BitNet-b1.58-2B-4T to
models/BitNet-b1.58-2B-4T/ggml-model-i2_s.gguf, unless that file is there. It downloads nothing: where the folder is
missing, it says what command would fetch it. What the build and the conversion print goes to logs/.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

QUANT_TYPES = ["i2_s", "tl1", "tl2"]


def checkout():
    """The folder of bitnet.h that this file lies in, or is linked from, or was copied into the top of."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "bitnet.h").is_file() and (folder / "Makefile").is_file():
            return folder
    sys.exit("setup_env.py: not in a checkout of bitnet.h: no bitnet.h and Makefile above " + __file__)


def run(command, log):
    """Runs command with its output in the file log; ends the program with the last of it if it fails."""
    print(" ".join(map(str, command)), flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as out:
        status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out).returncode
    if status != 0:
        last = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-5:])
        sys.exit(f"{last}setup_env.py: that failed with status {status}; all of it is in {log}")


def main():
    parser = argparse.ArgumentParser(description="Builds the programs and converts a Hugging Face folder to GGUF.")
    parser.add_argument("--hf-repo", "-hr", help="the model; its folder is MODEL_DIR/NAME, without the owner")
    parser.add_argument("--model-dir", "-md", default="models", help="where models are; without -hr: the model itself")
    parser.add_argument("--log-dir", "-ld", default="logs")
    parser.add_argument("--quant-type", "-q", choices=QUANT_TYPES, default="i2_s")
    parser.add_argument("--quant-embd", action="store_true", help="embeddings in f16; they are always so")
    parser.add_argument("--use-pretuned", "-p", action="store_true", help="without effect: nothing needs tuning")
    args = parser.parse_args()

    root, logs = checkout(), Path(args.log_dir)
    folder = Path(args.model_dir)
    if args.hf_repo:
        folder /= os.path.basename(args.hf_repo.rstrip("/"))
    model = folder / f"ggml-model-{args.quant_type}.gguf"

    run(["make", "-C", root, "--no-print-directory", "compat"], logs / "compile.log")
    if model.is_file() and model.stat().st_size > 0:
        print(f"{model} is there already")
        return
    if not (folder / "config.json").is_file():
        repo = args.hf_repo or "OWNER/NAME"
        sys.exit(f"setup_env.py: {folder} holds no model; this fetches one:\n"
                 f"    huggingface-cli download {repo} --local-dir {folder}")
    convert = [root / "build" / "convert", folder, "-o", model, "--outtype", args.quant_type, "--force"]
    run(convert, logs / "convert.log")
    print(f"{model} written")


if __name__ == "__main__":
    main()
