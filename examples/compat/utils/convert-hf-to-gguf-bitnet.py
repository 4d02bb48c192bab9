#!/usr/bin/env python3
"""convert-hf-to-gguf-bitnet.py: bitnet.cpp's command line for build/convert.

    python3 examples/compat/utils/convert-hf-to-gguf-bitnet.py models/NAME --outtype f32

Writes models/NAME/ggml-model-f32.gguf. The types beside f32, f16, tl1 and tl2 are build/convert's; without --quant-embd
embeddings of f32 models stay f32. An old file is replaced. The exit status is build/convert's.
"""

import argparse
import subprocess
import sys
from pathlib import Path


def program():
    """build/convert of the checkout that this file lies in, or is linked from, or was copied into."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "build" / "convert").is_file():
            return folder / "build" / "convert"
    sys.exit("convert-hf-to-gguf-bitnet.py: there is no build/convert above " + __file__ + ": run make compat")


def main():
    parser = argparse.ArgumentParser(description="A Hugging Face folder of a BitNet model to a GGUF file.")
    parser.add_argument("model", type=Path, help="the folder")
    parser.add_argument("--outfile", type=Path, help="the file to write (MODEL/ggml-model-OUTTYPE.gguf)")
    parser.add_argument("--outtype", default="f32", help="of the ternary matrices (f32); build/convert --help has all")
    parser.add_argument("--quant-embd", action="store_true", help="embeddings in f16")
    parser.add_argument("--vocab-only", action="store_true", help="only the vocabulary")
    parser.add_argument("--model-name", help="the model's name (the folder's)")
    for name in ("--use-temp-file", "--verbose"):
        parser.add_argument(name, action="store_true", help="without effect")
    args = parser.parse_args()

    embedding = "f32" if args.outtype == "f32" and not args.quant_embd else "f16"
    command = [program(), args.model, "-o", args.outfile or args.model / f"ggml-model-{args.outtype}.gguf", "--force",
               "--outtype", args.outtype, "--token-embedding-type", embedding, "--output-tensor-type", embedding]
    if args.vocab_only:
        command.append("--vocab-only")
    if args.model_name:
        command += ["--name", args.model_name]
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main())
