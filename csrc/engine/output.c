#include "output.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- the buffer */

void gpud_output_init(gpud_output *output)
{
  *output = (gpud_output){0};
  pthread_mutex_init(&output->lock, NULL);
}

void gpud_output_free(gpud_output *output)
{
  free(output->text);
  pthread_mutex_destroy(&output->lock);
}

void gpud_output_add(gpud_output *output, const char *text, uint32_t size)
{
  pthread_mutex_lock(&output->lock);
  if (!output->text)
    output->text = malloc(GPUD_OUTPUT_BYTES);
  if (!output->text || size > GPUD_OUTPUT_BYTES - output->size) {
    output->lost++;
  } else {
    memcpy(output->text + output->size, text, size);
    output->size += size;
  }
  pthread_mutex_unlock(&output->lock);
}

/* The beginning of `text` that ends in a whole line, or else in a whole character. */
static uint32_t cut(const char *text, uint32_t most)
{
  for (uint32_t i = most; i > most / 2; i--)
    if (text[i - 1] == '\n')
      return i;
  uint32_t i = most;
  while (i > most - 4 && ((unsigned char)text[i] & 0xc0) == 0x80)
    i--;
  return i;
}

uint32_t gpud_output_take(gpud_output *output, const char **text, uint32_t most)
{
  if (output->taken == output->size && output->lost) {
    /* There is room: everything was taken. */
    int size = snprintf(output->text, GPUD_OUTPUT_BYTES,
                        "[gpudisagg: %llu more printfs of this launch did not fit into %u bytes and are lost]\n",
                        (unsigned long long)output->lost, GPUD_OUTPUT_BYTES);
    output->lost = 0;
    output->taken = 0;
    output->size = (uint32_t)size;
  }
  uint32_t left = output->size - output->taken;
  if (left == 0) {
    output->taken = output->size = 0;
    return 0;
  }
  *text = output->text + output->taken;
  uint32_t size = left > most ? cut(*text, most) : left;
  output->taken += size;
  return size;
}

void gpud_output_clear(gpud_output *output)
{
  if (output->text)
    explicit_bzero(output->text, GPUD_OUTPUT_BYTES);
  free(output->text);
  output->text = NULL;
  output->size = output->taken = 0;
  output->lost = 0;
}

/* ---------------------------------------------------------------- printf */

typedef struct reader {
  const char *arguments;
  uint64_t offset;
  int32_t count;
} reader;

static void take(reader *r, void *value, uint64_t size)
{
  r->offset = (r->offset + size - 1) & ~(size - 1);
  memcpy(value, r->arguments + r->offset, size);
  r->offset += size;
  r->count++;
}

static int32_t take_int(reader *r)
{
  int32_t value;
  take(r, &value, sizeof value);
  return value;
}

static uint64_t take_wide(reader *r)
{
  uint64_t value;
  take(r, &value, sizeof value);
  return value;
}

typedef struct writer {
  char *text;
  uint32_t most;
  uint32_t size;
} writer;

static void put(writer *w, const char *text, uint64_t size)
{
  uint64_t room = w->most - w->size;
  uint64_t fits = size < room ? size : room;
  memcpy(w->text + w->size, text, fits);
  w->size += (uint32_t)fits;
}

typedef struct conversion {
  char flags[8]; /* what snprintf is given */
  int width;
  int precision; /* -1: none */
  bool wide;     /* 64 bits */
  int narrow;    /* 1: h, 2: hh */
  char kind;
} conversion;

#define MOST_WIDTH 4096

static int number(const char **at, reader *r)
{
  if (**at == '*') {
    (*at)++;
    return take_int(r);
  }
  int value = 0;
  for (; **at >= '0' && **at <= '9'; (*at)++)
    value = value < MOST_WIDTH ? value * 10 + (**at - '0') : value;
  return value;
}

/* What follows a '%'. */
static conversion parse(const char **at, reader *r)
{
  conversion c = {.precision = -1};
  unsigned flags = 0;
  for (; **at && strchr("-+ #0", **at); (*at)++)
    if (!strchr(c.flags, **at) && flags < sizeof c.flags - 1)
      c.flags[flags++] = **at;
  c.width = number(at, r);
  if (**at == '.') {
    (*at)++;
    c.precision = number(at, r);
  }
  for (; **at && strchr("hljztqL", **at); (*at)++) {
    if (**at == 'h')
      c.narrow++;
    else
      c.wide = true;
  }
  c.kind = **at;
  if (c.kind)
    (*at)++;
  if (c.width < 0 && c.width >= -MOST_WIDTH) {
    c.width = -c.width;
    if (!strchr(c.flags, '-'))
      c.flags[flags] = '-';
  }
  c.width = c.width < 0 ? 0 : c.width > MOST_WIDTH ? MOST_WIDTH : c.width;
  c.precision = c.precision < 0 ? -1 : c.precision > MOST_WIDTH ? MOST_WIDTH : c.precision;
  return c;
}

/* The conversion as snprintf takes it, with width and precision as arguments. */
static void spell(const conversion *c, char spelled[16], const char *length)
{
  snprintf(spelled, 16, "%%%s*%s%s%c", c->flags, c->precision < 0 ? "" : ".*", length, c->kind);
}

#define PRINT(w, c, spelled, value)                                                                                    \
  do {                                                                                                                 \
    char piece[2 * MOST_WIDTH];                                                                                        \
    int length = (c)->precision < 0 ? snprintf(piece, sizeof piece, spelled, (c)->width, value)                        \
                                    : snprintf(piece, sizeof piece, spelled, (c)->width, (c)->precision, value);       \
    if (length > 0)                                                                                                    \
      put(w, piece, (uint64_t)length < sizeof piece ? (uint64_t)length : sizeof piece - 1);                            \
  } while (0)

/* The formats are put together from checked pieces. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"

static void put_integer(writer *w, const conversion *c, reader *r)
{
  char spelled[16];
  bool is_signed = c->kind == 'd' || c->kind == 'i';
  uint64_t bits = c->wide ? take_wide(r) : (uint32_t)take_int(r);
  if (!c->wide) {
    int shift = c->narrow >= 2 ? 24 : c->narrow == 1 ? 16 : 0;
    uint32_t word = (uint32_t)bits << shift;
    bits = is_signed ? (uint64_t)(int64_t)((int32_t)word >> shift) : word >> shift;
  }
  spell(c, spelled, "ll");
  if (is_signed)
    PRINT(w, c, spelled, (long long)bits);
  else
    PRINT(w, c, spelled, (unsigned long long)bits);
}

static void put_double(writer *w, const conversion *c, reader *r)
{
  char spelled[16];
  double value;
  take(r, &value, sizeof value);
  spell(c, spelled, "");
  PRINT(w, c, spelled, value);
}

static void put_string(writer *w, conversion c, reader *r)
{
  char spelled[16];
  const char *text = (const char *)(uintptr_t)take_wide(r);
  if (!text)
    text = "(null)";
  /* No more is read than may be printed. */
  if (c.precision < 0)
    c.precision = MOST_WIDTH;
  spell(&c, spelled, "");
  PRINT(w, &c, spelled, text);
}

static void put_pointer(writer *w, const conversion *c, reader *r)
{
  char spelled[16];
  void *pointer = (void *)(uintptr_t)take_wide(r);
  spell(c, spelled, "");
  PRINT(w, c, spelled, pointer);
}

static void put_character(writer *w, const conversion *c, reader *r)
{
  char character = (char)take_int(r);
  bool left = strchr(c->flags, '-') != NULL;
  if (left)
    put(w, &character, 1);
  for (int i = 1; i < c->width; i++)
    put(w, " ", 1);
  if (!left)
    put(w, &character, 1);
}

#pragma GCC diagnostic pop

int32_t gpud_format(char *text, uint32_t most, uint32_t *size, const char *format, const void *arguments)
{
  writer w = {text, most, 0};
  reader r = {arguments, 0, 0};
  *size = 0;
  if (!format)
    return -1;
  while (*format) {
    const char *begin = format;
    while (*format && *format != '%')
      format++;
    put(&w, begin, (uint64_t)(format - begin));
    if (!*format)
      break;
    begin = format++;
    conversion c = parse(&format, &r);
    if (c.kind == '%')
      put(&w, "%", 1);
    else if (c.kind && strchr("diuoxX", c.kind))
      put_integer(&w, &c, &r);
    else if (c.kind && strchr("fFeEgGaA", c.kind))
      put_double(&w, &c, &r);
    else if (c.kind == 's')
      put_string(&w, c, &r);
    else if (c.kind == 'p')
      put_pointer(&w, &c, &r);
    else if (c.kind == 'c')
      put_character(&w, &c, &r);
    else
      put(&w, begin, (uint64_t)(format - begin)); /* no conversion: as it stands */
  }
  *size = w.size;
  return r.count;
}
