"""bitnet.py: BitNet models in Python, through libbitnet.so and nothing but the standard library.

    make lib                                        # builds build/libbitnet.so from bitnet.h

    from bitnet import BitNetInference
    with BitNetInference("model.gguf") as model:
        print(model.generate("Once upon a time", max_tokens=100)["text"])
        for piece in model.generate_stream(messages=[{"role": "user", "content": "Hello!"}]):
            print(piece["text"], end="", flush=True)

The library is looked for in the environment variable BITNET_LIBRARY, beside this file, in build/ of the checkout that
this file lies in, and where the system keeps its libraries.

Any number of threads may use one model. Their texts are then generated in the same passes over the weights, and each
gets the very text that it would get alone.

Reading order: the library and its structs, as bitnet.h declares them (tests/test_python.sh has a C compiler compare
them); what is said to a model; the model; one text under way.
"""

import collections
import contextlib
import ctypes
import ctypes.util
import os
import random
import sys
import threading
from ctypes import POINTER, c_char, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p

__all__ = ["BitNetError", "BitNetInference"]

VERSION = "0.1.0"                   # of bitnet.h, whose structs these are

# ------------------------------------------------------------------------------------------------- structs

OK, IDLE, ERROR_ARGUMENT, ERROR_FULL = 0, 1, -1, -9
EVENT_TOKEN, EVENT_DONE = 2, 3
REASON_ERROR = 6
TOKENIZE_BOS, TOKENIZE_SPECIAL = 1, 2
CHAT_ANSWER = 1
MAX_STOPS, MAX_STOP_BYTES = 16, 256

# What the numbers above are called in bitnet.h, for the test.
C_NAMES = {
    "BITNET_OK": OK, "BITNET_IDLE": IDLE, "BITNET_ERROR_ARGUMENT": ERROR_ARGUMENT, "BITNET_ERROR_FULL": ERROR_FULL,
    "BITNET_EVENT_TOKEN": EVENT_TOKEN, "BITNET_EVENT_DONE": EVENT_DONE, "BITNET_DONE_ERROR": REASON_ERROR,
    "BITNET_TOKENIZE_BOS": TOKENIZE_BOS, "BITNET_TOKENIZE_SPECIAL": TOKENIZE_SPECIAL,
    "BITNET_CHAT_ANSWER": CHAT_ANSWER, "BITNET_MAX_STOPS": MAX_STOPS, "BITNET_MAX_STOP_BYTES": MAX_STOP_BYTES,
    "BITNET_I2S_A": 1, "BITNET_I2S_B": 2, "BITNET_I2S_C": 3, "BITNET_I2S_D": 4,
}

LOG_FN = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p)


class bitnet_error(ctypes.Structure):
    _fields_ = [("code", c_int), ("offset", c_uint64), ("text", c_char * 240)]


class bitnet_allocator(ctypes.Structure):
    _fields_ = [("alloc", c_void_p), ("free", c_void_p), ("user", c_void_p)]


class bitnet_logger(ctypes.Structure):
    _fields_ = [("log", LOG_FN), ("user", c_void_p)]


class bitnet_reader(ctypes.Structure):
    _fields_ = [("read", c_void_p), ("size", c_uint64), ("user", c_void_p)]


class bitnet_scheduler(ctypes.Structure):
    _fields_ = [("parallel_for", c_void_p), ("step_begin", c_void_p), ("step_end", c_void_p), ("user", c_void_p)]


class bitnet_model_desc(ctypes.Structure):
    _fields_ = [
        ("path", c_char_p), ("data", c_void_p), ("size", c_uint64), ("reader", bitnet_reader),
        ("allocator", bitnet_allocator), ("logger", bitnet_logger), ("scheduler", bitnet_scheduler),
        ("n_threads", c_int), ("progress", c_void_p), ("progress_user", c_void_p), ("kernels", c_char_p),
        ("allow_amx", c_int), ("layout", c_char_p), ("head", c_char_p), ("chat_template", c_char_p),
        ("i2s_layout", c_int), ("tl_tiles", c_char_p), ("no_mmap", c_int), ("mlock", c_int), ("vocab_only", c_int)]


class bitnet_model_info(ctypes.Structure):
    _fields_ = [
        ("architecture", c_char * 32), ("name", c_char * 64), ("tokenizer", c_char * 16),
        ("pre_tokenizer", c_char * 32), ("chat_template", c_char * 16), ("kernels", c_char * 16),
        ("layout", c_char * 8), ("head_type", c_char * 8), ("head", c_char * 12), ("linear_type", c_char * 16),
        ("is_ternary", c_int), ("is_supported", c_int), ("unsupported", c_char * 200), ("n_vocab", c_int),
        ("n_ctx_train", c_int), ("n_embd", c_int), ("n_layer", c_int), ("n_head", c_int), ("n_head_kv", c_int),
        ("head_dim", c_int), ("n_ff", c_int), ("rope_theta", c_float), ("norm_eps", c_float), ("tied_output", c_int),
        ("pooling", c_int), ("n_tensors", c_int), ("n_parameters", c_uint64), ("file_bytes", c_uint64),
        ("weight_bytes", c_uint64), ("model_memory", c_uint64), ("mapped_memory", c_uint64), ("bos", c_int32),
        ("eos", c_int32), ("eot", c_int32)]


class bitnet_chat_message(ctypes.Structure):
    _fields_ = [("role", c_char_p), ("content", c_char_p)]


class bitnet_engine_desc(ctypes.Structure):
    _fields_ = [("allocator", bitnet_allocator), ("scheduler", bitnet_scheduler), ("n_threads", c_int),
                ("n_batch", c_int), ("n_ctx", c_int)]


class bitnet_session_desc(ctypes.Structure):
    _fields_ = [("n_ctx", c_int)]


class bitnet_sampling(ctypes.Structure):
    _fields_ = [("temperature", c_float), ("top_k", c_int), ("top_p", c_float), ("min_p", c_float),
                ("repeat_penalty", c_float), ("frequency_penalty", c_float), ("presence_penalty", c_float),
                ("repeat_last_n", c_int), ("seed", c_uint64)]


class bitnet_generation(ctypes.Structure):
    _fields_ = [("sampling", bitnet_sampling), ("max_tokens", c_int), ("stops", POINTER(c_char_p)),
                ("n_stops", c_int), ("bias", c_void_p), ("n_bias", c_int), ("mask", c_void_p),
                ("mask_user", c_void_p), ("logprobs", c_int), ("ignore_end", c_int), ("show_special", c_int),
                ("embedding", c_void_p)]


class bitnet_event(ctypes.Structure):
    _fields_ = [("type", c_int), ("token", c_int32), ("text", c_void_p), ("text_size", c_size_t),
                ("logprob", c_float), ("top", c_void_p), ("n_top", c_int), ("n_done", c_int), ("n_total", c_int),
                ("reason", c_int), ("error", POINTER(bitnet_error))]


# ------------------------------------------------------------------------------------------------- library

# Name: (result, arguments). Models, engines and sessions are void pointers here.
_error_p, _tokens_p = POINTER(bitnet_error), POINTER(c_int32)
FUNCTIONS = {
    "bitnet_version": (c_char_p, []),
    "bitnet_result_text": (c_char_p, [c_int]),
    "bitnet_model_open": (c_int, [POINTER(bitnet_model_desc), POINTER(c_void_p), _error_p]),
    "bitnet_model_close": (None, [c_void_p]),
    "bitnet_model_get_info": (None, [c_void_p, POINTER(bitnet_model_info)]),
    "bitnet_tokenize": (c_int64, [c_void_p, c_char_p, c_size_t, _tokens_p, c_int64, c_int]),
    "bitnet_chat_tokenize": (c_int64, [c_void_p, POINTER(bitnet_chat_message), c_int, c_int, _tokens_p, c_int64]),
    "bitnet_engine_create": (c_int, [c_void_p, POINTER(bitnet_engine_desc), POINTER(c_void_p), _error_p]),
    "bitnet_engine_destroy": (None, [c_void_p]),
    "bitnet_session_create": (c_int, [c_void_p, POINTER(bitnet_session_desc), POINTER(c_void_p), _error_p]),
    "bitnet_session_destroy": (c_int, [c_void_p]),
    "bitnet_session_tokens": (c_int, [c_void_p, POINTER(_tokens_p)]),
    "bitnet_session_rewind": (c_int, [c_void_p, c_int]),
    "bitnet_begin": (c_int, [c_void_p, _tokens_p, c_int, POINTER(bitnet_generation)]),
    "bitnet_step": (c_int, [c_void_p, c_uint32]),
    "bitnet_finish": (c_int, [c_void_p]),
    "bitnet_next_event": (c_int, [c_void_p, POINTER(bitnet_event)]),
}


class BitNetError(RuntimeError):
    """What the library said: the text names the file, tensor or byte. code: a bitnet_result; offset: the byte, or 0."""

    def __init__(self, text, code=ERROR_ARGUMENT, offset=0):
        super().__init__(text)
        self.code = code
        self.offset = offset


def _library_paths():
    """Where the library may be, best first."""
    here = os.path.dirname(os.path.realpath(__file__))
    name = {"darwin": "libbitnet.dylib", "win32": "bitnet.dll"}.get(sys.platform, "libbitnet.so")
    for folder in (here, os.path.join(here, "..", "..", "build")):
        for file in (name, "libbitnet.so"):
            path = os.path.join(folder, file)
            if os.path.exists(path):
                yield path
    system = ctypes.util.find_library("bitnet")
    if system:
        yield system


def _load_library():
    """The library with its functions declared. Raises BitNetError if there is none, or one of another version."""
    path = os.environ.get("BITNET_LIBRARY") or next(_library_paths(), None)
    if not path:
        raise BitNetError("libbitnet.so is not beside bitnet.py, nor in build/, nor installed: `make lib` builds it; "
                          "BITNET_LIBRARY names another place")
    try:
        lib = ctypes.CDLL(path)
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as why:
        raise BitNetError(f"{path} is no libbitnet: {why}") from None
    version = lib.bitnet_version().decode()
    if version != VERSION:
        raise BitNetError(f"{path} is of bitnet.h {version}, and this bitnet.py of {VERSION}")
    return lib


# ------------------------------------------------------------------------------------ what is said to a model

def _bytes(text, what):
    """text as UTF-8 for a C string. Half a surrogate pair, which UTF-8 cannot hold, becomes U+FFFD."""
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {type(text).__name__}")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _string(text, what):
    data = _bytes(text, what)
    if b"\0" in data:
        raise ValueError(f"{what} holds a NUL character")
    return data


def _number(value, default, low, high, what):
    """None means default, as in JSON's null; NaN is out of every range."""
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} must be a number, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{what} is {value}, not from {low} to {high}")
    return value


def _stop_list(stop):
    """None, a string or strings, as a list of bytes."""
    stops = [stop] if isinstance(stop, str) else list(stop or [])
    stops = [_string(s, "stop") for s in stops]
    if len(stops) > MAX_STOPS - 1:                       # one is kept for conversations without a template
        raise ValueError(f"stop: {len(stops)} strings, and {MAX_STOPS - 1} are possible")
    for s in stops:
        if not 0 < len(s) <= MAX_STOP_BYTES:
            raise ValueError(f"stop: a string has {len(s)} bytes, not from 1 to {MAX_STOP_BYTES}")
    return stops


def _message_list(messages):
    """[(role, content)] in bytes."""
    pairs = []
    for message in messages:
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise TypeError('a message must be a dict like {"role": "user", "content": "Hello!"}')
        pairs.append((_string(message["role"], "role"), _string(message["content"], "content")))
    return pairs


def _plain_conversation(pairs):
    """For models without a chat template: lines that a base model understands, as examples/talk.h writes them."""
    lines = []
    for role, content in pairs:
        name = {b"user": b"User: ", b"assistant": b"Assistant: ", b"system": b""}.get(role)
        if name is None:
            raise ValueError(f"no role {role.decode()!r}; there are system, user and assistant")
        lines.append(name + content + b"\n")
    return b"".join(lines) + b"Assistant:"


def _make_generation(stops, temperature, top_p, top_k, max_tokens, min_p, repeat_penalty, frequency_penalty,
                     presence_penalty, repeat_last_n, seed):
    """A bitnet_generation with the defaults of build/generate, whose spellings of "off" become the library's: top_p 0
    means the best token alone, repeat_last_n 0 no penalties."""
    g = bitnet_generation()
    s = g.sampling
    s.temperature = max(0.0, _number(temperature, 0.8, -1e6, 1e6, "temperature"))
    s.top_k = max(0, int(_number(top_k, 40, -2**31, 2**31 - 1, "top_k")))
    top_p = _number(top_p, 0.95, 0, 1e6, "top_p")
    s.top_p = 0 if top_p >= 1 else max(top_p, 1e-6)
    s.min_p = _number(min_p, 0.05, 0, 1, "min_p")
    s.repeat_last_n = int(_number(repeat_last_n, 64, -1, 2**31 - 1, "repeat_last_n"))
    if s.repeat_last_n:
        s.repeat_penalty = _number(repeat_penalty, 1.0, 1e-3, 1e3, "repeat_penalty")
        s.frequency_penalty = _number(frequency_penalty, 0.0, -1e3, 1e3, "frequency_penalty")
        s.presence_penalty = _number(presence_penalty, 0.0, -1e3, 1e3, "presence_penalty")
    seed = int(_number(seed, -1, -1, 2**64 - 1, "seed"))
    s.seed = random.getrandbits(32) if seed < 0 else seed
    g.max_tokens = max(0, max_tokens)
    g.stops = (c_char_p * len(stops))(*stops)            # ctypes keeps the array and its strings alive in g
    g.n_stops = len(stops)
    return g


def _make_log(verbose):
    """A bitnet_logger's function: warnings always, the rest if verbose."""
    def log(_user, level, text):
        if level > 0 or verbose:
            print("bitnet:", text.decode(errors="replace"), file=sys.stderr)

    return LOG_FN(log)


# --------------------------------------------------------------------------------------------------- model

# kernel_params that mean something here: the strings of bitnet_model_desc. Others are for other programs.
_KERNEL_STRINGS = ("kernels", "layout", "head", "chat_template", "tl_tiles")


class BitNetInference:
    """A model, ready to talk. It keeps as many KV caches as there were texts under way at once. Its memory is given
    back at the end of a with block, by `await model.close()`, or when nothing refers to it any more."""

    def __init__(self, model_path, quant_type=None, use_pretuned=None, quant_embd=None, n_ctx=None, n_threads=None,
                 n_batch=None, n_gpu_layers=0, main_gpu=0, low_vram=False, use_mmap=True, use_mlock=False,
                 kernel_params=None, verbose=None):
        """Opens the model. Raises BitNetError if it cannot be opened or is not one that this version runs.

        n_ctx: tokens of a text, prompt and answer together; at most the training context (default: 4096 of it).
        n_threads: default one per core, at most 16. n_batch: a hint, which never changes the text. kernel_params: may
        hold kernels, layout, head, chat_template, tl_tiles, i2s_layout and allow_amx of bitnet_model_desc; what else it
        holds is ignored. verbose: log to stderr, as with BITNET_VERBOSE=1. The rest is known from the file, or of no
        effect on a CPU, and accepted for programs that say it."""
        self._model = self._engine = None                # first, so that __del__ finds them whatever fails
        self._sessions, self._idle, self._left = [], [], collections.deque()
        self._turn, self._busy, self._wanted, self._waiting = threading.Condition(), False, 0, {}
        self._lib = _load_library()
        if verbose is None:
            verbose = os.environ.get("BITNET_VERBOSE", "0") not in ("", "0")
        self._log = _make_log(verbose)                   # kept: the library calls it as long as the model lives
        n_threads = int(_number(n_threads, 0, -2**31, 2**31 - 1, "n_threads"))
        n_threads = min(max(n_threads, 0), 256)
        self._open(model_path, n_threads, use_mmap, use_mlock, kernel_params or {})
        self._info = bitnet_model_info()
        self._lib.bitnet_model_get_info(self._model, self._info)
        train = self._info.n_ctx_train if self._info.n_ctx_train > 0 else 4096
        wanted = int(_number(n_ctx, 0, 0, 2**31 - 1, "n_ctx")) or 4096
        self._n_ctx = min(wanted, train)
        n_batch = int(_number(n_batch, 0, 0, 2**31 - 1, "n_batch"))
        self._create_engine(n_threads, 0 if n_batch < 32 else min(n_batch, 512))
        if verbose:
            info = self._info
            self._log(None, 0, b"%s \"%s\", kernels %s, context %d tokens, chat template %s" % (
                info.architecture, info.name, info.kernels, self._n_ctx, info.chat_template))

    def _check(self, result, err):
        if result != OK:
            text = err.text.decode(errors="replace") or self._lib.bitnet_result_text(result).decode()
            raise BitNetError(text, result, err.offset)

    def _open(self, model_path, n_threads, use_mmap, use_mlock, kernel_params):
        desc, err, model = bitnet_model_desc(), bitnet_error(), c_void_p()
        path = os.fsencode(model_path)
        if b"\0" in path:
            raise ValueError("model_path holds a NUL character")
        desc.path = path
        desc.logger.log = self._log
        desc.n_threads = n_threads
        desc.no_mmap = 0 if use_mmap is None else not use_mmap
        desc.mlock = bool(use_mlock)
        for name in _KERNEL_STRINGS:
            if kernel_params.get(name) is not None:
                setattr(desc, name, _string(kernel_params[name], name))
        layout = _string(kernel_params.get("i2s_layout") or "", "i2s_layout").decode().upper()
        if layout not in ("", "A", "B", "C", "D"):
            raise ValueError(f"i2s_layout is {layout!r}, not A, B, C or D")
        desc.i2s_layout = " ABCD".index(layout) if layout else 0
        desc.allow_amx = bool(kernel_params.get("allow_amx"))
        self._check(self._lib.bitnet_model_open(desc, model, err), err)
        self._model = model

    def _create_engine(self, n_threads, n_batch):
        desc, err, engine = bitnet_engine_desc(), bitnet_error(), c_void_p()
        desc.n_threads, desc.n_batch, desc.n_ctx = n_threads, n_batch, self._n_ctx
        self._check(self._lib.bitnet_engine_create(self._model, desc, engine, err), err)
        self._engine = engine

    # ------------------------------------------------------------------------------------ text

    def generate(self, prompt=None, messages=None, temperature=None, top_p=None, top_k=None, max_tokens=None, stop=None,
                 **more):
        """{"text": what the model says}. Arguments as generate_stream."""
        pieces = self.generate_stream(prompt, messages, temperature, top_p, top_k, max_tokens, stop, **more)
        return {"text": "".join(piece["text"] for piece in pieces)}

    def generate_stream(self, prompt=None, messages=None, temperature=None, top_p=None, top_k=None, max_tokens=None,
                        stop=None, *, min_p=None, repeat_penalty=None, frequency_penalty=None, presence_penalty=None,
                        repeat_last_n=None, seed=None):
        """An iterator of {"text": piece}, each piece of whole characters. Text to continue: messages, dicts of role
        (system, user, assistant) and content in the model's chat template, if there are any, else prompt as it is.

        None means the default of build/generate for sampling, and for max_tokens 512; below 0: until the model ends or
        the context is full. stop: a string or strings that end the text and are not part of it. seed: the same gives
        the same text; below 0: a random one. Raises BitNetError if the text does not fit the context."""
        pairs = _message_list(messages or [])
        plain = bool(pairs) and self._info.chat_template == b"none"
        text = _plain_conversation(pairs) if plain else _bytes(prompt or "", "prompt")
        with self._engine_alone():                       # or another thread could close the model meanwhile
            if pairs and not plain:
                tokens = self._tokenize_chat(pairs)
            else:
                tokens = self._tokenize(text, TOKENIZE_BOS | (0 if plain else TOKENIZE_SPECIAL))
        stops = _stop_list(stop) + ([b"\nUser:"] if plain else [])
        max_tokens = int(_number(max_tokens, 512, -2**31, 2**31 - 1, "max_tokens"))
        generation = _make_generation(stops, temperature, top_p, top_k, max_tokens, min_p, repeat_penalty,
                                      frequency_penalty, presence_penalty, repeat_last_n, seed)
        return iter(()) if max_tokens == 0 else _Stream(self, tokens, generation)

    def _tokenize(self, text, flags):
        count = self._lib.bitnet_tokenize(self._model, text, len(text), None, 0, flags)
        tokens = (c_int32 * max(count, 0))()
        if count >= 0:
            count = self._lib.bitnet_tokenize(self._model, text, len(text), tokens, count, flags)
        if count < 0:
            raise BitNetError("the prompt cannot be tokenized: " + self._lib.bitnet_result_text(count).decode(), count)
        if count == 0 and self._info.bos >= 0:           # something must be there to go on from
            tokens = (c_int32 * 1)(self._info.bos)
        return tokens

    def _tokenize_chat(self, pairs):
        messages = (bitnet_chat_message * len(pairs))(*pairs)
        arguments = (self._model, messages, len(pairs), CHAT_ANSWER)
        count = self._lib.bitnet_chat_tokenize(*arguments, None, 0)
        tokens = (c_int32 * max(count, 0))()
        if count < 0 or self._lib.bitnet_chat_tokenize(*arguments, tokens, count) != count:
            roles = ", ".join(role.decode() for role, _ in pairs)
            raise BitNetError(f"chat template {self._info.chat_template.decode()} does not take these messages "
                              f"(roles {roles})", ERROR_ARGUMENT)
        return tokens

    # --------------------------------------------------------------------------------- engine

    # An engine takes one call at a time: _busy says that a thread is in one, and _turn guards it and all that follows.
    # A thread that waits for text computes if nobody does, and hands the events to all threads that wait; texts that
    # nobody waits for rest meanwhile. _wanted counts the threads that want the engine for something else: they go
    # first, or one that only generates would never let them in.

    @contextlib.contextmanager
    def _engine_alone(self):
        """For calls on the engine and its sessions, while nobody else makes any. Raises BitNetError once closed."""
        with self._turn:
            self._wanted += 1
            try:
                self._turn.wait_for(lambda: not self._busy)
            finally:                                     # also after Ctrl-C, or the others would wait for ever
                self._wanted -= 1
                self._turn.notify_all()
            if not self._engine:
                raise BitNetError("the model is closed")
            self._busy = True
        try:
            yield
        finally:
            with self._turn:
                self._busy = False
                self._turn.notify_all()

    def _begin(self, tokens, generation):
        """A session that has begun: an idle one whose text agrees the longest with tokens, which then need not be
        evaluated again, or a new one. The bits are the same either way."""
        with self._engine_alone():
            self._take_back()
            if not self._idle:
                self._idle.append(self._create_session())
            session = max(self._idle, key=lambda idle: self._common(idle, tokens))
            at = self._rewind(session, self._common(session, tokens))
            rest = (c_int32 * (len(tokens) - at))(*tokens[at:])
            result = self._lib.bitnet_begin(session, rest, len(rest), generation)
            if result == OK:
                self._idle.remove(session)
                return session
        if result == ERROR_FULL:
            raise BitNetError(f"the prompt has {len(tokens)} tokens, and the context holds {self._n_ctx}", result)
        raise BitNetError("the prompt cannot be used: " + self._lib.bitnet_result_text(result).decode(), result)

    def _create_session(self):
        desc, err, session = bitnet_session_desc(self._n_ctx), bitnet_error(), c_void_p()
        self._check(self._lib.bitnet_session_create(self._engine, desc, session, err), err)
        self._sessions.append(session)
        return session

    def _take_back(self):
        """Makes the sessions that streams have left idle; some are in the middle of a text."""
        while self._left:
            session, _generation = self._left.popleft()  # the session refers to it until it is rewound
            self._lib.bitnet_finish(self._engine)
            self._rewind(session, self._lib.bitnet_session_tokens(session, None))
            self._idle.append(session)

    def _rewind(self, session, pos):
        """Back to pos, or where that is not evaluated yet to somewhere before; returns where."""
        for at in (pos, max(pos - 1, 0), 0):             # a text's last token is never evaluated
            if self._lib.bitnet_session_rewind(session, at) == OK:
                return at
        raise BitNetError("a session cannot be rewound")

    def _common(self, session, tokens):
        """How many tokens the session and the new text have in common; the last is left, for something to evaluate."""
        have = _tokens_p()
        n = max(min(self._lib.bitnet_session_tokens(session, have), len(tokens) - 1), 0)
        return next((i for i in range(n) if have[i] != tokens[i]), n)

    def _next_event(self, session):
        """The session's next TOKEN or DONE, as (type, text, reason, error)."""
        key, idle = session.value, 0
        with self._turn:
            if key in self._waiting:
                raise BitNetError("another thread is reading this stream")
            self._waiting[key] = None
            try:
                while not self._waiting[key]:
                    if not self._engine:
                        raise BitNetError("the model is closed")
                    if self._busy or self._wanted:
                        self._turn.wait()
                    elif not self._hand_out(key):
                        idle = idle + 1 if self._compute() == IDLE else 0
                        if idle > 1:                     # every generation ends with DONE, so this is never reached
                            raise BitNetError("the engine has nothing to do")
                return self._waiting[key]
            finally:
                del self._waiting[key]

    def _hand_out(self, key):
        """Fetches an event for each waiting thread. Returns that for key, None where there is none."""
        event = bitnet_event()
        for session in self._waiting:
            while not self._waiting[session] and self._lib.bitnet_next_event(session, event):
                if event.type in (EVENT_TOKEN, EVENT_DONE):
                    text = ctypes.string_at(event.text, event.text_size).decode(errors="replace") if event.text else ""
                    err = event.error.contents.text.decode(errors="replace") if event.error else ""
                    self._waiting[session] = (event.type, text, event.reason, err)
        return self._waiting[key]

    def _compute(self):
        """A step of 50 ms, so that Ctrl-C and other threads get their turn; returns its result. Called and left with
        _turn held, which is free meanwhile."""
        self._take_back()
        self._busy = True
        self._turn.release()
        try:
            result = self._lib.bitnet_step(self._engine, 50000)
        finally:
            self._turn.acquire()
            self._busy = False
            self._turn.notify_all()
        if result < OK:
            raise BitNetError("the engine failed: " + self._lib.bitnet_result_text(result).decode(), result)
        return result

    # --------------------------------------------------------------------------------- ending

    def _release(self):
        """Gives all memory back, once no call is under way. Streams that are not at their end raise from then on."""
        with self._turn:
            self._turn.wait_for(lambda: not self._busy)
            if self._engine:
                self._lib.bitnet_finish(self._engine)
            for session in self._sessions:
                self._lib.bitnet_session_destroy(session)
            self._lib.bitnet_engine_destroy(self._engine)
            self._lib.bitnet_model_close(self._model)
            self._sessions, self._engine, self._model = [], None, None
            self._turn.notify_all()

    async def close(self):
        """await model.close(): for programs that run in an event loop. Others use with, or let go of the model."""
        self._release()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._release()

    def __del__(self):
        if getattr(self, "_model", None):                # it may have none, if __init__ raised
            self._release()


class _Stream:
    """One text under way: an iterator of {"text": piece}. close(), or dropping it, stops the generation."""

    def __init__(self, model, tokens, generation):
        self._session = None                             # first, for __del__
        self._model, self._generation = model, generation
        self._session = model._begin(tokens, generation)

    def __iter__(self):
        return self

    def __next__(self):
        while self._session:
            kind, text, reason, err = self._model._next_event(self._session)
            if kind == EVENT_DONE:
                self.close()
                if reason == REASON_ERROR:
                    raise BitNetError("the generation failed: " + err)
            if text:
                return {"text": text}
        raise StopIteration

    def close(self):
        # Waits for nothing: this runs wherever Python collects garbage, maybe inside a call on the same model.
        session, self._session = self._session, None
        if session:
            self._model._left.append((session, self._generation))

    __del__ = close
