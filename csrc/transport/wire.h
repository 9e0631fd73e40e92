/*
 * The wire, whole: every constant, limit and message that crosses between a client and a worker.
 *
 * Little endian, fixed width, no pointers. Two families:
 *   frames    on the bootstrap socket, before there is a ring: HELLO, WELCOME, REFUSED
 *   messages  in the ring, in 64-byte slots: commands (client to worker) and replies (worker to client)
 * docs/protocol.md is the prose: handshake, ordering, who frees what. wire.c encodes into and validates spans:
 * no I/O, no allocation, no clock, so it can be fuzzed at full speed.
 */
#ifndef GPUD_WIRE_H
#define GPUD_WIRE_H

#include <stddef.h>
#include <stdint.h>

/* ---------------------------------------------------------------- limits */

/* cffi: begin */
#define GPUD_VERSION 1          /* the one version this source speaks; HELLO carries a range */
#define GPUD_SLOT_SIZE 64       /* one cache line */
#define GPUD_MAX_MESSAGE 8192   /* bytes, header included: 128 slots */
#define GPUD_MAX_PARAMS 4096    /* bytes of a kernel's packed parameters (CUDA's limit before 12.1) */
#define GPUD_MAX_TEXT 4096      /* bytes of any text in a message: names, reasons, the head of a compile log */
#define GPUD_MAX_IMAGE 67108864 /* bytes of a module image: 64 MiB */
#define GPUD_MAX_REGIONS 1024   /* memory regions a client may have registered at once */
#define GPUD_MAX_OPTIONS 2048   /* bytes of NUL-separated compile options */
#define GPUD_MAX_LABEL 160      /* bytes of an array's label */
#define GPUD_MAX_FRAME 4096     /* bytes of a bootstrap frame */

/* Frames: what may stand in gpud_frame_head.type. */
#define GPUD_FRAME_HELLO 1
#define GPUD_FRAME_WELCOME 2
#define GPUD_FRAME_REFUSED 3
#define GPUD_FRAME_ASK 4        /* client, instead of HELLO or before it: how else can you be reached? */
#define GPUD_FRAME_WAYS 5       /* the answer; the socket then waits for HELLO, or another ASK, as before */
#define GPUD_FRAME_QUEUE_PAIR 6 /* verbs, both, after WELCOME */

/* Feature bits, offered in HELLO, granted in WELCOME. An unknown bit is ignored by whoever does not know it. */
#define GPUD_FEATURE_MEMBARRIER 1 /* both sides are registered for it: producers need no fence before the sleep check */
#define GPUD_FEATURE_HOST_MAP 2   /* the worker can place a client region in the window: kernels dereference it */
#define GPUD_FEATURE_DEVICE 4     /* behind this connection is an engine, not just a peer */
#define GPUD_FEATURE_VERBS 8   /* over TCP: the socket is the bootstrap of a queue pair; without it, it carries all */
#define GPUD_FEATURE_OUTPUT 16 /* the client takes OUTPUT messages */
#define GPUD_FEATURE_CHECK 32  /* kernels are compiled to ask before each access; the client tells of its arrays */
#define GPUD_FEATURE_COOPERATIVE 64 /* a LAUNCH may have GPUD_LAUNCH_COOPERATIVE */

/* Commands, client to worker. One-way: each takes one sequence number and none is answered unless it says so. */
#define GPUD_OP_DATA 1       /* opaque bytes; for users of the transport alone, in both directions */
#define GPUD_OP_REGION_ADD 2 /* the region's descriptor travels on the socket, sent before this */
#define GPUD_OP_REGION_DROP 3
#define GPUD_OP_MAP 16 /* device memory at an address in the window, zeroed */
#define GPUD_OP_UNMAP 17
#define GPUD_OP_COPY_IN 18  /* client region -> device memory */
#define GPUD_OP_COPY_OUT 19 /* device memory -> client region */
#define GPUD_OP_COPY 20     /* device memory -> device memory */
#define GPUD_OP_FILL 21
#define GPUD_OP_WRITE 22     /* a few inline bytes -> device memory */
#define GPUD_OP_ARRAY_ADD 24 /* checked sessions: what of mapped memory kernels may touch */
#define GPUD_OP_ARRAY_DROP 25
#define GPUD_OP_MODULE_LOAD 32 /* answered: KERNEL_INFO and GLOBAL_INFO messages, then one MODULE_STATUS */
#define GPUD_OP_MODULE_UNLOAD 33
#define GPUD_OP_LAUNCH 34
#define GPUD_OP_STREAM_CREATE 48
#define GPUD_OP_STREAM_DESTROY 49
#define GPUD_OP_EVENT_RECORD 50 /* creates the event where there is none of that id */
#define GPUD_OP_EVENT_WAIT 51   /* the head's stream waits for the event */
#define GPUD_OP_EVENT_QUERY 52  /* answered: EVENT_TIME */
#define GPUD_OP_EVENT_DESTROY 53
#define GPUD_OP_SYNCHRONIZE 54 /* completes when every stream has completed all before it */
#define GPUD_OP_CLOSE 63

/* Replies, worker to client. */
#define GPUD_OP_KERNEL_INFO 128
#define GPUD_OP_GLOBAL_INFO 129
#define GPUD_OP_MODULE_STATUS 130
#define GPUD_OP_EVENT_TIME 131
#define GPUD_OP_FAULT 132  /* the first command that failed; sent once, the session is poisoned from there */
#define GPUD_OP_BYE 133    /* the server ends the session, with the reason */
#define GPUD_OP_OUTPUT 134 /* bytes that kernels printed; a SYNCHRONIZE posted after taking them in asks for more */
#define GPUD_OP_DIRECT 135 /* verbs: by which way bulk reaches device memory, after the first that did */

/*
 * Link messages, between the two endpoints of a transport that shares no memory; never seen above them. Their head's tag and
 * sequence are zero.
 */
#define GPUD_OP_COMPLETED 192  /* worker: what shm keeps in two shared words */
#define GPUD_OP_BYTES 193      /* tcp, worker: the next bytes of the oldest COPY_OUT that is short of some follow */
#define GPUD_OP_REGION_KEY 194 /* verbs, client, before REGION_ADD: how the region is reached */
#define GPUD_OP_CREDIT 195     /* verbs, both: so many more messages may be sent */

/* Why: in REFUSED, MODULE_STATUS, FAULT and BYE. gpudisagg.errors has one exception for each. */
#define GPUD_STATUS_OK 0
#define GPUD_STATUS_PROTOCOL 1      /* malformed, unknown or out of place */
#define GPUD_STATUS_VERSION 2       /* no common version */
#define GPUD_STATUS_DENIED 3        /* not this user */
#define GPUD_STATUS_BUSY 4          /* no worker free before the deadline */
#define GPUD_STATUS_OUT_OF_MEMORY 5 /* over the session's limit, or the host has no more */
#define GPUD_STATUS_INVALID 6       /* an argument no device takes: address, size, grid, id */
#define GPUD_STATUS_NOT_FOUND 7     /* no such module, kernel, event, region */
#define GPUD_STATUS_COMPILE 8
#define GPUD_STATUS_DEVICE_FAULT 9 /* a kernel made a wild access, trapped or was stopped */
#define GPUD_STATUS_UNSUPPORTED 10
#define GPUD_STATUS_INTERNAL 11 /* our fault */
#define GPUD_STATUS_SHUTDOWN 12 /* the server is going away */
#define GPUD_STATUS_DEADLINE 13

/* What a kernel's parameter is, as far as its declaration says. */
#define GPUD_PARAM_BITS 0 /* integer, pointer, or untyped bits */
#define GPUD_PARAM_FLOAT 1
#define GPUD_PARAM_BLOB 2 /* an aggregate passed by value */

/* Of a LAUNCH. */
#define GPUD_MAX_COOPERATIVE_BLOCKS 1024
#define GPUD_LAUNCH_COOPERATIVE 1 /* all blocks run at the same time, and may wait for one another */

/*
 * A region's number that is never added. Only over tcp: in COPY_IN, "the bytes that follow this command"; in COPY_OUT, "the
 * bytes are expected". Any memory of the client's can so be copied without registering it.
 */
#define GPUD_REGION_STREAM 0xffffffff

/* Access bits of a region. */
#define GPUD_ACCESS_READ 1
#define GPUD_ACCESS_WRITE 2
/* cffi: end */

#define GPUD_MAGIC 0x44555047u /* "GPUD" */

/* ---------------------------------------------------------------- frames, on the socket */

typedef struct gpud_frame_head {
  uint32_t magic;
  uint16_t type;
  uint16_t reserved;
  uint32_t size; /* of the whole frame, head and text included */
  uint32_t text; /* bytes of text after the fixed part */
} gpud_frame_head;
_Static_assert(sizeof(gpud_frame_head) == 16, "read first, alone");

/* cffi: begin */
typedef struct gpud_hello { /* text: the client's name, for logs */
  uint16_t version_min;
  uint16_t version_max;
  uint32_t deadline_ms; /* how long the client will wait for a worker */
  uint64_t features;
  uint64_t memory;      /* device bytes the session asks for; 0: the server's default */
  uint64_t host_memory; /* bytes of client regions it may register; 0: the server's default */
} gpud_hello;

typedef struct gpud_welcome { /* text: the device's name; one descriptor: the sealed segment with the rings */
  uint16_t version;
  uint16_t warp_size;
  uint32_t command_slots; /* slots of the ring towards the worker, a power of two */
  uint32_t reply_slots;   /* slots of the ring towards the client, a power of two */
  uint32_t granularity;   /* MAP addresses and sizes are multiples of this */
  uint64_t features;
  uint64_t session;     /* the server's number for this session */
  uint64_t window_base; /* device addresses the client may place memory at; 0: no device here */
  uint64_t window_size;
  uint64_t memory; /* device bytes granted */
  uint64_t host_memory;
  uint32_t max_grid[3];
  uint32_t max_block[3];
  uint32_t max_block_threads;
  uint32_t max_shared; /* bytes of shared memory a block may have */
  uint32_t multiprocessors;
  uint32_t compute_capability; /* 100 * major + minor */
} gpud_welcome;

typedef struct gpud_refused { /* text: the reason, with what to do next */
  uint32_t status;
  uint32_t retry_ms; /* 0: do not */
} gpud_refused;
/* cffi: end */
/* cffi: begin */
typedef struct gpud_ask {
  uint64_t reserved;
} gpud_ask;

typedef struct gpud_ways { /* text: the server's addresses, one a line */
  uint8_t host[16];        /* the same on two sides of one running kernel (boot id), zero where unknown */
} gpud_ways;

typedef struct gpud_queue_pair { /* no text */
  uint8_t gid[16];
  uint32_t number;
  uint32_t sequence; /* its first packet sequence number, 24 bits */
  uint32_t lid;
  uint32_t mtu;      /* enum ibv_mtu */
  uint32_t receives; /* messages of GPUD_MAX_MESSAGE it has posted room for: the other side's first credit */
  uint32_t reads;    /* RDMA READs it serves at once */
} gpud_queue_pair;
/* cffi: end */
_Static_assert(sizeof(gpud_hello) == 32, "fixed part of HELLO");
_Static_assert(sizeof(gpud_welcome) == 104, "fixed part of WELCOME");
_Static_assert(sizeof(gpud_refused) == 8, "fixed part of REFUSED");
_Static_assert(sizeof(gpud_ask) == 8 && sizeof(gpud_ways) == 16 && sizeof(gpud_queue_pair) == 40, "fixed parts");

/* ---------------------------------------------------------------- messages, in the ring */

/*
 * Every message begins so. The first eight bytes are one word, stored last with release and polled in place:
 * `tag` says that this lap's message is there (ring.h), so a slot needs no index beside it.
 */
/* cffi: begin */
typedef struct gpud_message_head {
  uint32_t tag;
  uint16_t size; /* of the message, this head included: 16 .. GPUD_MAX_MESSAGE */
  uint8_t op;
  uint8_t flags;     /* none defined: must be zero */
  uint32_t stream;   /* 0 is the default stream */
  uint32_t sequence; /* low half of the sequence number, a check on what the receiver counted itself */
} gpud_message_head;

typedef struct gpud_msg_region_add {
  uint32_t region;  /* the client's number for it, below GPUD_MAX_REGIONS */
  uint32_t access;  /* what the worker may do: GPUD_ACCESS_* */
  uint64_t size;    /* bytes, a multiple of the page */
  uint64_t address; /* where in the window kernels see it; 0: nowhere */
} gpud_msg_region_add;

typedef struct gpud_msg_region_drop {
  uint32_t region;
  uint32_t reserved;
} gpud_msg_region_drop;

typedef struct gpud_msg_map { /* MAP, UNMAP */
  uint64_t address;
  uint64_t size;
} gpud_msg_map;

typedef struct gpud_msg_copy_host { /* COPY_IN, COPY_OUT */
  uint64_t address;                 /* device side */
  uint64_t offset;                  /* in the region */
  uint64_t size;
  uint32_t region;
  uint32_t reserved;
} gpud_msg_copy_host;

typedef struct gpud_msg_copy {
  uint64_t destination;
  uint64_t source;
  uint64_t size;
} gpud_msg_copy;

typedef struct gpud_msg_fill {
  uint64_t address;
  uint64_t count;   /* elements */
  uint64_t pattern; /* the low `width` bytes of it */
  uint32_t width;   /* 1, 2, 4 or 8 */
  uint32_t reserved;
} gpud_msg_fill;

typedef struct gpud_msg_write { /* followed by the bytes, up to the message's end */
  uint64_t address;
} gpud_msg_write;

typedef struct gpud_msg_array_add { /* followed by text: which array it is, in words */
  uint64_t address;
  uint64_t size;
  uint64_t room; /* bytes from its beginning that no other array will be in */
} gpud_msg_array_add;

typedef struct gpud_msg_array_drop {
  uint64_t address;
} gpud_msg_array_drop;

typedef struct gpud_msg_module_load { /* followed by the compile options, each ended by NUL */
  uint32_t module;                    /* the client's number for it */
  uint32_t region;                    /* where the image lies */
  uint64_t offset;
  uint64_t size;
} gpud_msg_module_load;

typedef struct gpud_msg_module_ref { /* MODULE_UNLOAD */
  uint32_t module;
  uint32_t reserved;
} gpud_msg_module_ref;

typedef struct gpud_msg_launch { /* followed by the packed parameters, params_size bytes */
  uint32_t module;
  uint16_t kernel; /* index in the module, as KERNEL_INFO gave it */
  uint16_t params_size;
  uint32_t grid[3];
  uint16_t block[3];
  uint16_t flags;  /* GPUD_LAUNCH_* */
  uint32_t shared; /* dynamic shared memory, bytes */
} gpud_msg_launch;

typedef struct gpud_msg_event_ref { /* EVENT_RECORD, EVENT_WAIT, EVENT_QUERY, EVENT_DESTROY */
  uint32_t event;                   /* the client's number for it */
  uint32_t reserved;
} gpud_msg_event_ref;

typedef struct gpud_param {
  uint16_t offset;
  uint16_t size;
  uint16_t kind; /* GPUD_PARAM_* */
  uint16_t reserved;
} gpud_param;

typedef struct gpud_msg_kernel_info { /* followed by gpud_param[param_count], then the name, name_size bytes */
  uint32_t module;
  uint16_t kernel;
  uint16_t param_count;
  uint32_t params_size;
  uint32_t static_shared;
  uint32_t max_threads; /* threads a block of it may have */
  uint32_t name_size;
} gpud_msg_kernel_info;

typedef struct gpud_msg_global_info { /* followed by the name, up to the message's end */
  uint32_t module;
  uint32_t reserved;
  uint64_t address;
  uint64_t size;
} gpud_msg_global_info;

typedef struct gpud_msg_module_status { /* followed by text: the compile log where it failed */
  uint32_t module;
  uint32_t status;
  uint32_t kernels; /* how many KERNEL_INFO came before */
  uint32_t globals;
} gpud_msg_module_status;

typedef struct gpud_msg_event_time {
  uint32_t event;
  uint32_t status;
  uint64_t nanoseconds; /* on the device's clock: only differences mean anything */
} gpud_msg_event_time;

typedef struct gpud_msg_fault { /* followed by text: the kernel's name and the reason in words */
  uint64_t sequence;            /* of the command that failed */
  uint32_t status;
  uint32_t op;
  uint64_t address; /* the offending address, or 0 */
  uint32_t module;
  uint32_t kernel;
  uint32_t block[3];
  uint32_t thread; /* linear in the block, ~0 where unknown */
} gpud_msg_fault;

typedef struct gpud_msg_bye { /* followed by text */
  uint32_t status;
  uint32_t reserved;
} gpud_msg_bye;

typedef struct gpud_msg_direct { /* followed by text: the way's name, and why there is no better one */
  uint32_t way;                  /* GPUD_DIRECT_* (engine.h) */
  uint32_t reserved;
} gpud_msg_direct;

typedef struct gpud_msg_completed {
  uint64_t sequence;
  uint32_t faulted; /* 0 or 1 */
  uint32_t reserved;
} gpud_msg_completed;

typedef struct gpud_msg_bytes {
  uint64_t size; /* bytes that follow the message */
} gpud_msg_bytes;

typedef struct gpud_msg_region_key {
  uint64_t address;
  uint32_t region;
  uint32_t rkey;
} gpud_msg_region_key;

typedef struct gpud_msg_credit {
  uint32_t messages;
  uint32_t reserved;
} gpud_msg_credit;
/* cffi: end */

_Static_assert(sizeof(gpud_message_head) == 16, "the rest of the first slot is 48 bytes of arguments");
_Static_assert(sizeof(gpud_msg_region_add) == 24 && sizeof(gpud_msg_region_drop) == 8, "fits one slot");
_Static_assert(sizeof(gpud_msg_map) == 16 && sizeof(gpud_msg_copy_host) == 32 && sizeof(gpud_msg_copy) == 24,
               "fits one slot");
_Static_assert(sizeof(gpud_msg_fill) == 32 && sizeof(gpud_msg_write) == 8, "fits one slot");
_Static_assert(sizeof(gpud_msg_array_add) == 24 && sizeof(gpud_msg_array_drop) == 8, "fits one slot");
_Static_assert(sizeof(gpud_msg_module_load) == 24 && sizeof(gpud_msg_module_ref) == 8, "fits one slot");
_Static_assert(sizeof(gpud_msg_launch) == 32, "leaves 16 bytes of parameters in the first slot");
_Static_assert(sizeof(gpud_msg_event_ref) == 8 && sizeof(gpud_msg_event_time) == 16, "fits one slot");
_Static_assert(sizeof(gpud_param) == 8 && sizeof(gpud_msg_kernel_info) == 24 && sizeof(gpud_msg_global_info) == 24,
               "packed");
_Static_assert(sizeof(gpud_msg_completed) == 16 && sizeof(gpud_msg_bytes) == 8 && sizeof(gpud_msg_region_key) == 16 &&
                   sizeof(gpud_msg_credit) == 8,
               "fits one slot");
_Static_assert(sizeof(gpud_msg_module_status) == 16 && sizeof(gpud_msg_fault) == 48 && sizeof(gpud_msg_bye) == 8 &&
                   sizeof(gpud_msg_direct) == 8,
               "packed");

#define GPUD_SLOTS(size) (((uint32_t)(size) + GPUD_SLOT_SIZE - 1) / GPUD_SLOT_SIZE)

/* ---------------------------------------------------------------- the codec */

/* cffi: begin */
/*
 * Encode a frame of `type` with fixed part `body` and `text` into out[capacity].
 * Returns the frame's size, or -EINVAL (unknown type, over GPUD_MAX_FRAME), -ENOSPC.
 */
int gpud_frame_encode(void *out, size_t capacity, uint16_t type, const void *body, const void *text, size_t text_size);

/*
 * How long the frame that begins with these bytes is: > 0 its size, 0 when fewer than 16 bytes are there,
 * -EPROTO when no frame begins so.
 */
int gpud_frame_size(const void *bytes, size_t size);

/*
 * Validate a whole frame of exactly `size` bytes and of `type`: copies its fixed part to `body`, points `text` into
 * `bytes`. Returns the number of text bytes, or -EPROTO.
 */
int gpud_frame_decode(const void *bytes, size_t size, uint16_t type, void *body, const char **text);

/*
 * Validate a message that was copied out of the ring: op known in this direction, size right for the op, reserved
 * fields and flags zero, counts within the message, options and text well-formed. Addresses, ids and limits are the engine's to judge.
 * `from_client`: 1 for commands, 0 for replies. Returns 0 or -EPROTO.
 */
int gpud_message_check(const void *message, size_t size, int from_client);

/*
 * The same for a link message (GPUD_OP_COMPLETED ..). Whether its op suits the transport is the endpoint's to judge.
 */
int gpud_link_check(const void *message, size_t size, int from_client);

/* Over tcp: how many bytes follow this message, which has been checked. 0 for most. */
uint64_t gpud_message_payload(const void *message);

/* The name of an op ("LAUNCH") or a status ("DEVICE_FAULT"); "?" where there is none. Never NULL. */
const char *gpud_op_name(uint32_t op);
const char *gpud_status_name(uint32_t status);
/* cffi: end */

#endif
