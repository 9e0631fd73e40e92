/*
 * A coverage-guided fuzzer for compilers that bring none: runs a target that is written for libFuzzer
 * (LLVMFuzzerTestOneInput), keeps every input that reaches something new, and mutates what it keeps. It understands the
 * few of libFuzzer's options that fuzzing.py uses, so that either may drive a target:
 *
 *   target [-max_total_time=S] [-runs=N] [-seed=N] [-max_len=N] [-timeout=S] [-artifact_prefix=P] FOLDER...
 *            fuzzes; the folders are the corpus, and what is found is written to the first
 *   target FILE...                  runs these inputs, once each
 *   target -merge=1 FOLDER FROM...  puts a smallest set of FROM's inputs that reaches all they reach into FOLDER
 *
 * Coverage is gcc's -fsanitize-coverage=trace-pc, of the sources under test only, and of the thread that calls the target only: others
 * run when they like. Operands of comparisons (trace-cmp) are kept too, as values worth trying.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <sanitizer/lsan_interface.h>

#include "fuzz.h"

#define EDGES 65536u
#define OPERANDS 256u
#define LARGEST 16384u
#define LEAK_EVERY 20000u /* runs */

typedef struct entry {
  uint8_t *bytes;
  size_t size;
} entry;

static uint8_t hits[EDGES];     /* of the input that runs: how often each edge was taken, up to 255 */
static uint8_t seen[EDGES];     /* of all so far: a bit for each magnitude */
static uint32_t touched[EDGES]; /* the edges of the input that runs */
static uint32_t touched_count;
static uint64_t operands[OPERANDS];
static uint32_t operand_count;
static _Thread_local bool traced __attribute__((tls_model("initial-exec")));
static _Thread_local uintptr_t before __attribute__((tls_model("initial-exec")));

static entry *corpus;
static size_t corpus_size;
static const uint8_t *current; /* the input that runs: what is wrong when the process ends now */
static size_t current_size;
static const char *artifact_prefix = "";
static uint64_t state;
static size_t max_len = 4096;
static unsigned timeout_s = 60;

/* ---------------------------------------------------------------- what the compiler calls */

void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc(void)
{
  if (!traced)
    return;
  uintptr_t here = (uintptr_t)__builtin_return_address(0);
  uint32_t edge = (uint32_t)(((here ^ before) * 0x9e3779b97f4a7c15ull) >> 48);
  if (hits[edge] == 0)
    touched[touched_count++] = edge;
  hits[edge] += hits[edge] != 255;
  before = here >> 1;
}

static void compared(uint64_t a, uint64_t b)
{
  if (!traced || a == b)
    return;
  operands[operand_count++ % OPERANDS] = a;
  operands[operand_count++ % OPERANDS] = b;
}

#define COMPARISON(name, type)                                                                                         \
  void __sanitizer_cov_trace_##name(type a, type b);                                                                   \
  void __sanitizer_cov_trace_##name(type a, type b) { compared(a, b); }
COMPARISON(cmp1, uint8_t)
COMPARISON(cmp2, uint16_t)
COMPARISON(cmp4, uint32_t)
COMPARISON(cmp8, uint64_t)
COMPARISON(const_cmp1, uint8_t)
COMPARISON(const_cmp2, uint16_t)
COMPARISON(const_cmp4, uint32_t)
COMPARISON(const_cmp8, uint64_t)
void __sanitizer_cov_trace_cmpf(float a, float b);
void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a, (void)b; }
void __sanitizer_cov_trace_cmpd(double a, double b);
void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a, (void)b; }
void __sanitizer_cov_trace_switch(uint64_t value, uint64_t *cases);
void __sanitizer_cov_trace_switch(uint64_t value, uint64_t *cases)
{
  if (cases[0])
    compared(value, cases[2 + value % cases[0]]);
}

/* ---------------------------------------------------------------- when it ends badly */

static uint64_t hash_of(const uint8_t *bytes, size_t size)
{
  uint64_t hash = 0xcbf29ce484222325ull;
  for (size_t i = 0; i < size; i++)
    hash = (hash ^ bytes[i]) * 0x100000001b3ull;
  return hash;
}

static void write_file(const char *path, const uint8_t *bytes, size_t size)
{
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0 || write(fd, bytes, size) != (ssize_t)size)
    fprintf(stderr, "cannot write %s: %s\n", path, strerror(errno));
  if (fd >= 0)
    close(fd);
}

static void keep_artifact(const char *what)
{
  char path[4096];
  if (!current)
    return;
  snprintf(path, sizeof path, "%s%s-%016llx", artifact_prefix, what,
           (unsigned long long)hash_of(current, current_size));
  write_file(path, current, current_size);
  fprintf(stderr, "the input is in %s\n", path);
  current = NULL;
}

/* So that on_signal hears of it: the two sanitizers are libraries of their own, and only the other has a callback. */
const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void) { return "abort_on_error=1:print_stacktrace=1"; }

static void on_report(void) { keep_artifact("crash"); }

static void on_exit_of_target(void)
{
  if (!current)
    return;
  fprintf(stderr, "the target ended the process\n");
  keep_artifact("crash");
  _exit(1);
}

static void on_signal(int signal)
{
  if (signal == SIGALRM) {
    fprintf(stderr, "an input ran for %u s\n", timeout_s);
    keep_artifact("timeout");
    _exit(70);
  }
  fprintf(stderr, "signal %d\n", signal);
  keep_artifact("crash");
  sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
  raise(signal);
}

static void catch_ends(void)
{
  static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGALRM};
  for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
    struct sigaction old;
    /* The sanitizer's own say more. */
    if (sigaction(signals[i], NULL, &old) == 0 && !(old.sa_flags & SA_SIGINFO) && old.sa_handler == SIG_DFL)
      sigaction(signals[i], &(struct sigaction){.sa_handler = on_signal, .sa_flags = SA_NODEFER | SA_ONSTACK}, NULL);
  }
  __sanitizer_set_death_callback(on_report);
  atexit(on_exit_of_target);
}

/* ---------------------------------------------------------------- a run */

static uint64_t next(void)
{
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

static size_t below(size_t limit) { return limit ? next() % limit : 0; }

/* 1, 2, 3, 4-7, 8-15, 16-31, 32-127, more: a loop that turns once more is not news. */
static uint8_t magnitude(uint8_t count)
{
  return count < 4     ? (uint8_t)(1u << (count - 1))
         : count < 8   ? 8
         : count < 16  ? 16
         : count < 32  ? 32
         : count < 128 ? 64
                       : 128;
}

/* Runs the input, in memory of exactly its size. How many edges it took that none before took, or not so often. */
static uint32_t run(const uint8_t *bytes, size_t size)
{
  uint8_t *copy = malloc(size + !size);
  if (!copy)
    abort();
  if (size)
    memcpy(copy, bytes, size);
  current = bytes;
  current_size = size;
  alarm(timeout_s);
  before = 0;
  traced = true;
  LLVMFuzzerTestOneInput(copy, size);
  traced = false;
  alarm(0);
  uint32_t news = 0;
  for (uint32_t i = 0; i < touched_count; i++) {
    uint32_t edge = touched[i];
    uint8_t bit = magnitude(hits[edge]);
    news += (bit & ~seen[edge]) != 0;
    seen[edge] |= bit;
    hits[edge] = 0;
  }
  touched_count = 0;
  free(copy);
  current = NULL;
  return news;
}

static void look_for_leaks(const uint8_t *bytes, size_t size)
{
  current = bytes;
  current_size = size;
  if (__lsan_do_recoverable_leak_check())
    exit(1); /* about one of the last LEAK_EVERY inputs; the artifact is the last of them */
  current = NULL;
}

static void keep(const uint8_t *bytes, size_t size)
{
  if ((corpus_size & (corpus_size - 1)) == 0) {
    corpus = realloc(corpus, (corpus_size ? 2 * corpus_size : 1) * sizeof *corpus);
    if (!corpus)
      abort();
  }
  uint8_t *copy = malloc(size + !size);
  if (!copy)
    abort();
  if (size)
    memcpy(copy, bytes, size);
  corpus[corpus_size++] = (entry){copy, size};
}

/* ---------------------------------------------------------------- mutation */

static size_t insert(uint8_t *bytes, size_t size, const uint8_t *from, size_t count)
{
  size_t at = below(size + 1);
  if (count > max_len - size)
    count = max_len - size;
  memmove(bytes + at + count, bytes + at, size - at);
  if (from)
    memmove(bytes + at, from, count);
  else
    for (size_t i = 0; i < count; i++)
      bytes[at + i] = (uint8_t)next();
  return size + count;
}

static void overwrite(uint8_t *bytes, size_t size, uint64_t value, size_t width)
{
  if (width <= size)
    memcpy(bytes + below(size - width + 1), &value, width);
}

static size_t mutate(uint8_t *bytes, size_t size)
{
  static const uint64_t odd[] = {0,      1,      15,         16,         63,         64,         127,        128,  255,
                                 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 1ull << 63, ~0ull >> 1, ~0ull};
  size_t width = 1u << below(4);
  size_t count = below(4) ? 1 + below(8) : 1 + below(64);
  switch (size ? below(11) : 3) {
  case 0:
    bytes[below(size)] ^= (uint8_t)(1u << below(8));
    return size;
  case 1:
    bytes[below(size)] = (uint8_t)next();
    return size;
  case 2:
    overwrite(bytes, size, odd[below(sizeof odd / sizeof odd[0])], width);
    return size;
  case 3:
    return insert(bytes, size, NULL, count);
  case 4:
    overwrite(bytes, size, operands[below(OPERANDS)], width);
    return size;
  case 5:
    return insert(bytes, size, (const uint8_t *)&operands[below(OPERANDS)], width);
  case 6:
  case 7: { /* a piece goes */
    size_t at = below(size);
    count = count < size - at ? count : size - at;
    memmove(bytes + at, bytes + at + count, size - at - count);
    return size - count;
  }
  case 8: { /* a piece comes twice */
    uint8_t piece[64];
    size_t at = below(size);
    count = count < size - at ? count : size - at;
    memcpy(piece, bytes + at, count);
    return insert(bytes, size, piece, count);
  }
  case 9: { /* a piece of another input comes in */
    const entry *other = &corpus[below(corpus_size)];
    size_t at = below(other->size);
    count = below(2) ? other->size - at : count;
    return other->size ? insert(bytes, size, other->bytes + at, count < other->size - at ? count : other->size - at)
                       : size;
  }
  default:
    bytes[below(size)] += (uint8_t)(below(16) - 8);
    return size;
  }
}

/* ---------------------------------------------------------------- files */

static size_t read_file(const char *path, uint8_t bytes[LARGEST])
{
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? -1 : read(fd, bytes, LARGEST);
  if (size < 0) {
    fprintf(stderr, "cannot read %s: %s\n", path, strerror(errno));
    exit(2);
  }
  close(fd);
  return (size_t)size;
}

static void read_folder(const char *path)
{
  static uint8_t bytes[LARGEST];
  struct dirent **names;
  int count = scandir(path, &names, NULL, alphasort);
  for (int i = 0; i < count; i++) {
    char file[4096];
    snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name);
    if (names[i]->d_name[0] != '.')
      keep(bytes, read_file(file, bytes));
    free(names[i]);
  }
  if (count >= 0)
    free(names);
}

static void write_to_folder(const char *folder, const uint8_t *bytes, size_t size)
{
  char path[4096];
  snprintf(path, sizeof path, "%s/%016llx", folder, (unsigned long long)hash_of(bytes, size));
  write_file(path, bytes, size);
}

static bool is_folder(const char *path)
{
  struct stat st;
  return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* ---------------------------------------------------------------- what it is for */

static uint32_t edges(void)
{
  uint32_t count = 0;
  for (uint32_t i = 0; i < EDGES; i++)
    count += seen[i] != 0;
  return count;
}

static int shorter(const void *a, const void *b)
{
  const entry *x = a, *y = b;
  if (x->size != y->size)
    return x->size < y->size ? -1 : 1;
  return memcmp(x->bytes, y->bytes, x->size);
}

static void merge(const char *folder)
{
  size_t kept = 0;
  if (corpus_size)
    qsort(corpus, corpus_size, sizeof *corpus, shorter);
  for (size_t i = 0; i < corpus_size; i++)
    if (run(corpus[i].bytes, corpus[i].size)) {
      write_to_folder(folder, corpus[i].bytes, corpus[i].size);
      kept++;
    }
  fprintf(stderr, "merged %zu inputs into %zu, %u edges\n", corpus_size, kept, edges());
}

static void fuzz(const char *folder, uint64_t runs, double seconds)
{
  static uint8_t bytes[LARGEST];
  struct timespec now, begin;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  uint64_t done = 0;
  size_t given = corpus_size;
  for (size_t i = 0; i < given; i++, done++)
    run(corpus[i].bytes, corpus[i].size);
  if (given == 0)
    keep((const uint8_t *)"", 0);
  for (double elapsed = 0; done < runs && elapsed < seconds; done++) {
    const entry *from = &corpus[below(2) ? below(corpus_size) : corpus_size - 1 - below(corpus_size / 4 + 1)];
    size_t size = from->size < max_len ? from->size : max_len;
    memcpy(bytes, from->bytes, size);
    for (size_t blows = 1 + below(below(8) + 1); blows > 0; blows--)
      size = mutate(bytes, size);
    if (run(bytes, size)) {
      keep(bytes, size);
      write_to_folder(folder, bytes, size);
    }
    if (done % LEAK_EVERY == LEAK_EVERY - 1)
      look_for_leaks(bytes, size);
    clock_gettime(CLOCK_MONOTONIC, &now);
    elapsed = (double)(now.tv_sec - begin.tv_sec) + (double)(now.tv_nsec - begin.tv_nsec) / 1e9;
  }
  look_for_leaks(bytes, 0);
  fprintf(stderr, "done %llu runs, %zu inputs, %u edges\n", (unsigned long long)done, corpus_size, edges());
}

int main(int count, char **arguments)
{
  double seconds = 1e9;
  uint64_t runs = UINT64_MAX, seed = 0;
  bool merging = false;
  int first = 1;
  for (; first < count && arguments[first][0] == '-'; first++) {
    const char *value = strchr(arguments[first], '=');
    size_t name = value ? (size_t)(value++ - arguments[first]) : strlen(arguments[first]);
#define IS(option) (value && strlen(option) == name && strncmp(arguments[first], option, name) == 0)
    if (IS("-max_total_time"))
      seconds = strtod(value, NULL);
    else if (IS("-runs"))
      runs = strtoull(value, NULL, 10);
    else if (IS("-seed"))
      seed = strtoull(value, NULL, 10);
    else if (IS("-max_len"))
      max_len = strtoull(value, NULL, 10) < LARGEST ? strtoull(value, NULL, 10) : LARGEST;
    else if (IS("-timeout"))
      timeout_s = (unsigned)strtoul(value, NULL, 10);
    else if (IS("-artifact_prefix"))
      artifact_prefix = value;
    else if (IS("-merge"))
      merging = true;
    else {
      fprintf(stderr, "%s is not an option of this driver\n", arguments[first]);
      return 2;
    }
  }
  if (first == count) {
    fprintf(stderr, "name a folder to fuzz with, or files to run\n");
    return 2;
  }
  catch_ends();
  state = seed * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull;
  if (!is_folder(arguments[first])) {
    static uint8_t bytes[LARGEST];
    for (int i = first; i < count; i++)
      run(bytes, read_file(arguments[i], bytes));
    return 0;
  }
  for (int i = merging ? first + 1 : first; i < count; i++)
    read_folder(arguments[i]);
  if (merging)
    merge(arguments[first]);
  else
    fuzz(arguments[first], runs, seconds);
  for (size_t i = 0; i < corpus_size; i++)
    free(corpus[i].bytes);
  free(corpus);
  return 0;
}
