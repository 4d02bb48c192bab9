# bitnet.h is one header: to use it there is nothing to build. This file builds the programs in examples/ and
# tools/ and the tests, and names the commands that run them. `make help` lists those.
#
# On the command line: CC=clang  CFLAGS=-O3  DEFS=-DBITNET_NO_SIMD  SAN=address,undefined (or thread)  MODEL=file.gguf

CFLAGS = -O2
WARN   = -Wall -Wextra
LDLIBS = -lpthread -lm
PREFIX = /usr/local
BUILD  = build
JOBS  := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

ifdef SAN
comma := ,
BUILD  = build/$(subst $(comma),-,$(SAN))
CHECKS = -O1 -g -fno-omit-frame-pointer -fsanitize=$(SAN) -fno-sanitize-recover=all
endif

COMPILE  = $(CC) $(CFLAGS) $(CHECKS) $(WARN) $(DEFS) -I.
HEADERS  = bitnet.h $(wildcard examples/*.h tools/*.h tests/*.h)
PROGRAMS = $(addprefix $(BUILD)/,$(basename $(notdir $(wildcard examples/*.c tools/*.c))) server)
TESTS    = $(addprefix $(BUILD)/,$(basename $(notdir $(wildcard tests/test_*.c))))
HELPERS  = $(BUILD)/synth $(BUILD)/read_gguf
SCRIPTS  = $(filter-out tests/test_configs.sh,$(wildcard tests/test_*.sh))
MAKE_ALL = @$(MAKE) --no-print-directory -j$(JOBS)

# Under sanitizers compiling the kernels takes most of the time: what does not test them goes without.
ifdef SAN
$(HELPERS) $(addprefix $(BUILD)/test_,files formats sampler tokenizer): private CHECKS += -DBITNET_NO_SIMD
endif

RUN_ENV  = BUILD='$(BUILD)' CC='$(CC)' CFLAGS='$(CFLAGS) $(CHECKS)' DEFS='$(DEFS)' JOBS='$(JOBS)'

all:
	$(MAKE_ALL) $(PROGRAMS)

# Every program is one .c file, compiled alone: cc -O2 -I. tools/synth.c -lpthread -lm
$(BUILD)/%: examples/%.c $(HEADERS) $(BUILD)/flags
	$(COMPILE) -o $@ $< $(LDLIBS)

# The server alone has several files, and carries a web page inside.
SERVER = $(wildcard examples/server/*.h)
PAGE   = $(addprefix examples/server/,index.html app.css app.js)
$(BUILD)/server: examples/server/server.c $(SERVER) $(HEADERS) $(BUILD)/page.h $(BUILD)/flags
	$(COMPILE) -I$(BUILD) -o $@ $< $(LDLIBS)

$(BUILD)/page.h: $(BUILD)/page $(PAGE)
	$(BUILD)/page / 'text/html; charset=utf-8' examples/server/index.html /app.css 'text/css; charset=utf-8' \
	    examples/server/app.css /app.js 'text/javascript; charset=utf-8' examples/server/app.js > $@.part
	mv $@.part $@

$(BUILD)/page: examples/server/page.c $(BUILD)/flags
	$(COMPILE) -o $@ $<

$(BUILD)/%: tools/%.c $(HEADERS) $(BUILD)/flags
	$(COMPILE) -o $@ $< $(LDLIBS)

$(BUILD)/%: tests/%.c $(HEADERS) $(BUILD)/flags
	$(COMPILE) -o $@ $< $(LDLIBS)

# The same functions for other languages; examples/python/bitnet.py loads it. Nothing but the public names is exported.
LIB = $(BUILD)/libbitnet.so
lib: $(LIB)
$(LIB): bitnet.h $(BUILD)/flags
	$(COMPILE) -fPIC -shared -fvisibility=hidden '-DBITNET_API=__attribute__((visibility("default")))' \
	    -DBITNET_IMPLEMENTATION -o $@ -x c bitnet.h -x none $(LDLIBS)

# The programs by the names that llama.cpp's and bitnet.cpp's have, which they then take after. The server, if it is there.
TWINS = llama-cli:generate llama-cli-bitnet:generate llama-bench:bench llama-perplexity:perplexity \
        llama-quantize:quantize llama-embedding:embed \
        $(if $(filter $(BUILD)/server,$(PROGRAMS)),llama-server:server llama-server-bitnet:server)
compat:
	$(MAKE_ALL) $(sort $(foreach twin,$(TWINS),$(BUILD)/$(lastword $(subst :, ,$(twin))))) $(BUILD)/convert
	@mkdir -p $(BUILD)/bin
	@for twin in $(TWINS); do ln -sf "../$${twin#*:}" "$(BUILD)/bin/$${twin%%:*}"; done

# Changes only when the command line does, so that CC=clang or another CFLAGS rebuilds everything.
$(BUILD)/flags: force
	@mkdir -p $(BUILD)
	@echo '$(COMPILE)' | cmp -s - $@ || echo '$(COMPILE)' > $@

# ------------------------------------------------------------------------------------------------- running

MODEL  = examples/stories.gguf
PROMPT = Once upon a time

run: $(BUILD)/generate
	$(BUILD)/generate -m '$(MODEL)' -p '$(PROMPT)' --display-prompt -n 200

chat: $(BUILD)/chat
	$(BUILD)/chat -m '$(MODEL)'

serve: $(BUILD)/server
	$(BUILD)/server -m '$(MODEL)'

# The bundled model again from nothing: 49 million tokens, of which a core of a Xeon learns about 5,000 a second, and with
# AMX=--amx, where the processor has it, 10,000 (examples/stories.md). Ctrl-C stops it, and `make model` goes on from there.
# The result is $(BUILD)/stories.gguf; with --amx the very file in examples/. TWIN=--no-quant trains the same network without
# rounding, to compare, and writes no model.
AMX   =
TWIN  =
TRAIN = $(BUILD)/train $(AMX) $(TWIN) --data $(BUILD)/text.txt --val $(BUILD)/held-out.txt --name 'bitnet.h storyteller' \
        --layers 4 --heads 8 --kv-heads 4 --ff 512 --batch 4 --steps 48000 --lr 0.002 --every 2000
TRAINED = $(BUILD)/stories$(TWIN).gguf

model: $(BUILD)/train $(BUILD)/perplexity $(BUILD)/stories $(BUILD)/text.txt $(BUILD)/held-out.txt
	if [ -e $(TRAINED).ckpt ]; then resume=--resume; fi; $(TRAIN) $$resume -o $(TRAINED)
	if [ -z '$(TWIN)' ]; then $(BUILD)/perplexity -m $(TRAINED) -f $(BUILD)/held-out.txt --documents && \
	    $(BUILD)/stories -m $(TRAINED); fi

$(BUILD)/text.txt: $(BUILD)/storygen
	$(BUILD)/storygen -n 400000 --seed 1 > $@.part
	$(BUILD)/storygen -n 60000 --seed 12 --only facts >> $@.part
	mv $@.part $@

$(BUILD)/held-out.txt: $(BUILD)/storygen
	$(BUILD)/storygen -n 1000 --seed 2 --held-out --only story -o $@

# Without MODEL= a model with random weights of SHAPE, made if it is not there: bench takes the size of the published one
# (2b-4t, 1.2 GB of disk), slices a small one.
SHAPE  =
MODELS = $(sort $(addprefix $(BUILD)/,$(addsuffix .gguf,2b-4t small $(SHAPE))))
BENCH_MODEL = $(if $(filter command,$(origin MODEL)),$(MODEL),$(BUILD)/$(or $(SHAPE),$1).gguf)

# A few minutes: a model, then the ternary products alone, as shares of what this machine allows.
bench: $(BUILD)/bench $(call BENCH_MODEL,2b-4t)
	$(BUILD)/bench -m '$(call BENCH_MODEL,2b-4t)' -p 512 -n 32 -npl 1,4,16 -r 3 --loads 3
	$(BUILD)/bench --matmul -p 1,8,512 -r 5

# How well bitnet_step keeps its time budget, beside a control loop of equal slices.
slices: $(BUILD)/slices $(call BENCH_MODEL,small)
	$(BUILD)/slices '$(call BENCH_MODEL,small)'

$(MODELS): $(BUILD)/%.gguf: | $(BUILD)/synth
	$(BUILD)/synth --shape $* --seed 1 -o $@

# ------------------------------------------------------------------------------------------------- testing

programs: $(PROGRAMS)
tests: $(TESTS) $(HELPERS) $(BUILD)/stories $(BUILD)/make_hf $(BUILD)/measure

# What any machine with a C compiler can check, in a few minutes. What is missing is skipped, said and counted.
test:
	$(MAKE_ALL) programs tests lib
	$(MAKE_ALL) compat
	@$(RUN_ENV) sh tests/run.sh $(TESTS) $(SCRIPTS)

# The C tests alone; some call the helpers.
test-unit:
	$(MAKE_ALL) $(TESTS) $(HELPERS)
	@$(RUN_ENV) sh tests/run.sh $(TESTS)

# Every compiler, language, warning and configuration macro.
test-compile:
	@$(RUN_ENV) FULL=1 sh tests/run.sh tests/test_compile.sh

# The same logits from every compiler, optimisation level, kernel set, thread count and batch.
test-hashes:
	$(MAKE_ALL) $(BUILD)/synth $(BUILD)/logits
	@$(RUN_ENV) FULL=1 sh tests/run.sh tests/test_hashes.sh

# The C tests once more under configuration macros and with -m32; FULL=1: under each macro alone; CONFIG='flags': these.
test-configs:
	@$(RUN_ENV) CONFIG='$(CONFIG)' sh tests/run.sh tests/test_configs.sh

# The server's tests alone; also under a sanitizer.
test-server:
	$(MAKE_ALL) $(addprefix $(BUILD)/,server synth generate logits tokenize)
	@$(RUN_ENV) sh tests/run.sh tests/test_server.sh tests/test_openai.sh tests/test_page.sh tests/test_proxy.sh

# The server under clients of every kind, for SOAK_SECONDS; also under a sanitizer.
SOAK_SECONDS = 1800
test-soak:
	$(MAKE_ALL) $(addprefix $(BUILD)/,server synth)
	@dir=$$(mktemp -d) && python3 tests/server_soak.py '$(abspath $(BUILD))' '$(CURDIR)' $$dir $(SOAK_SECONDS); \
	    status=$$?; rm -rf "$$dir"; exit $$status

test-sanitize:
	@$(MAKE) --no-print-directory test-unit SAN=address,undefined
	@$(MAKE) --no-print-directory test-unit SAN=thread

test-valgrind:
	$(MAKE_ALL) $(VALGRIND_TESTS) build/valgrind/synth build/valgrind/read_gguf BUILD=build/valgrind CFLAGS='-O1 -g'
	@$(RUN_ENV) BUILD=build/valgrind TEST_FAST=1 RUNNER='$(VALGRIND)' sh tests/run.sh $(VALGRIND_TESTS)

VALGRIND_TESTS = $(TESTS:$(BUILD)/%=build/valgrind/%)

VALGRIND = valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite,possible

# Hostile files, texts and states for FUZZ_SECONDS each, from a sound example on; needs clang's libFuzzer.
FUZZ         = $(basename $(notdir $(wildcard tests/fuzz_*.c)))
FUZZ_SECONDS = 60
fuzz: $(FUZZ:%=$(BUILD)/fuzz/%)
	@for target in $(FUZZ); do \
	    (cd $(BUILD)/fuzz && ./$$target -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -print_final_stats=1 \
	        corpus_$$target) > $(BUILD)/fuzz/$$target.log 2>&1 || { tail -n 100 $(BUILD)/fuzz/$$target.log; exit 1; }; \
	    echo "$$target: $$(sed -n 's/^stat::number_of_executed_units: *//p' $(BUILD)/fuzz/$$target.log) inputs survived"; \
	done

$(BUILD)/fuzz/%: tests/%.c $(HEADERS) $(SERVER)
	@mkdir -p $(BUILD)/fuzz/corpus_$*
	$(CC) -O1 -I. -o $@.seed $< $(LDLIBS)
	$@.seed --seed $(BUILD)/fuzz/corpus_$*/sound
	clang -g -O1 -DFUZZ_LIB -fsanitize=fuzzer,address,undefined -I. -o $@ $< $(LDLIBS)

# A checkpoint of the size of the published one, 1.2 GB, packed as it is: made, converted in the time and memory that
# tests/test_convert_packed.sh allows, and compared. Takes 3.6 GB in $(BUILD) while it runs; make test does it small.
test-convert-big:
	$(MAKE_ALL) $(addprefix $(BUILD)/,synth make_hf measure convert inspect)
	@$(RUN_ENV) SHAPE=2b-4t TMPDIR='$(abspath $(BUILD))' sh tests/run.sh tests/test_convert_packed.sh

test-all:
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory test-compile
	@$(MAKE) --no-print-directory test-hashes
	@$(MAKE) --no-print-directory test-configs
	@$(MAKE) --no-print-directory test-sanitize
	@$(MAKE) --no-print-directory test-valgrind

# Writes tests/golden.txt anew. Only for a change of the arithmetic itself, which is a change of version.
golden:
	$(MAKE_ALL) $(BUILD)/synth $(BUILD)/logits
	@$(RUN_ENV) sh tests/test_hashes.sh --update

# --------------------------------------------------------------------------------------------------- other

size:
	@sh tests/size.sh

install:
	mkdir -p '$(DESTDIR)$(PREFIX)/include'
	cp bitnet.h '$(DESTDIR)$(PREFIX)/include/bitnet.h'

uninstall:
	rm -f '$(DESTDIR)$(PREFIX)/include/bitnet.h'

clean:
	rm -rf build

help:
	@echo "make                  build all programs of examples/ and tools/ into build/"
	@echo "make run              tell a story; MODEL=file.gguf PROMPT='...' for another model or text"
	@echo "make chat             talk to the bundled model, or to MODEL=file.gguf"
	@echo "make serve            serve the bundled model, or MODEL=file.gguf, at http://127.0.0.1:8080, with a page to chat"
	@echo "make model            train the bundled model again from nothing, in hours (AMX=--amx: faster); the result is in build/"
	@echo "make lib              libbitnet.so for other languages; examples/python/bitnet.py loads it"
	@echo "make compat           build/bin/llama-cli and its like: the programs by the names that llama.cpp's have"
	@echo "make test             every test this machine can run in a few minutes"
	@echo "make test-unit        the C tests alone; SAN=address,undefined or SAN=thread for a sanitizer"
	@echo "make test-compile     all compilers, languages, warnings and configuration macros"
	@echo "make test-hashes      same logits from all compilers, kernels, thread counts and batches"
	@echo "make test-configs     the C tests under configuration macros and with -m32 (FULL=1: all of them)"
	@echo "make test-server      the server's tests alone; SAN=address,undefined or SAN=thread for a sanitizer"
	@echo "make test-soak        the server under load and faults for SOAK_SECONDS=1800; SAN= as above"
	@echo "make test-sanitize    the C tests under the address, undefined-behaviour and thread sanitizers"
	@echo "make test-valgrind    the C tests under valgrind"
	@echo "make test-convert-big convert a checkpoint of 1.2 GB, in less than a minute and 1 GB of memory (3.6 GB in build/)"
	@echo "make test-all         all of the above but the last"
	@echo "make fuzz             hostile input for FUZZ_SECONDS=60 each (clang)"
	@echo "make bench            measure speed; MODEL=file.gguf, else a random model of SHAPE=2b-4t (1.2 GB in build/)"
	@echo "make slices           how well bitnet_step keeps its budget; MODEL=file.gguf, else one of SHAPE=small"
	@echo "make size             lines and comments of bitnet.h by section, bytes of code"
	@echo "make golden           write the expected logits hashes of tests/golden.txt anew"
	@echo "make install          copy bitnet.h to PREFIX/include (PREFIX=/usr/local)"
	@echo "make clean            remove build/"
	@echo "Variables: CC=clang  CFLAGS=-O3  DEFS=-DBITNET_NO_SIMD  SAN=thread"

force:
.PHONY: all lib compat run chat serve model bench slices programs tests test test-unit test-compile test-hashes test-configs \
        test-server test-soak test-sanitize test-valgrind test-convert-big test-all fuzz golden size install uninstall clean help force
