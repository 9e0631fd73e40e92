/*
 * What a launch prints. Threads of the pool write whole texts of one printf each, the engine's thread takes them once the
 * launch is over. Bounded: what does not fit is counted and dropped.
 */
#ifndef GPUD_OUTPUT_H
#define GPUD_OUTPUT_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#define GPUD_OUTPUT_BYTES (1u << 20)
#define GPUD_PRINT_BYTES 8192u /* of one printf's text */

typedef struct gpud_output {
  pthread_mutex_t lock;
  char *text; /* NULL until somebody prints */
  uint32_t size;
  uint32_t taken;
  uint64_t lost; /* printfs whose text did not fit */
} gpud_output;

void gpud_output_init(gpud_output *output);
void gpud_output_free(gpud_output *output);
/* Any thread. */
void gpud_output_add(gpud_output *output, const char *text, uint32_t size);
/* The next piece of what was printed, at most `most` bytes, cut after a line where there is one: its size, 0 when nothing is left. */
uint32_t gpud_output_take(gpud_output *output, const char **text, uint32_t most);
/* Forgets and scrubs everything. */
void gpud_output_clear(gpud_output *output);

/*
 * `format` with the arguments in a packed buffer (each aligned to its size) as text, cut at `most` bytes; *size gets its
 * length. Returns the number of arguments taken, -1 where there is no format. Reads what `format` and %s point to.
 */
int32_t gpud_format(char *text, uint32_t most, uint32_t *size, const char *format, const void *arguments);

#endif
