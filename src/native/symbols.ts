/**
 * The exported functions of libminference.so, one entry per line of cuda/include/minference.h.
 *
 * Functions that can wait are `nonblocking`; the rest return in nanoseconds to microseconds.
 *
 * @module
 */

/** Symbol table for `Deno.dlopen`. */
export const symbols = {
  mi_abi_version: { parameters: [], result: "u32" },
  mi_describe: {
    parameters: [
      "buffer", // char* text
      "u64", // capacity
    ],
    result: "u64",
  },
  mi_device_count: {
    parameters: [
      "i32", // mi_device_kind
      "buffer", // mi_error*
    ],
    result: "i32",
  },
  mi_device_open: {
    parameters: [
      "buffer", // const mi_device_options*
      "buffer", // uint64_t* device
      "buffer", // mi_error*
    ],
    result: "i32",
    nonblocking: true, // a CUDA context takes a few hundred milliseconds
  },
  mi_device_close: {
    parameters: [
      "u64", // device
      "buffer", // mi_error*
    ],
    result: "i32",
    nonblocking: true,
  },
  mi_device_info_get: {
    parameters: [
      "u64", // device
      "buffer", // mi_device_info*
      "buffer", // mi_error*
    ],
    result: "i32",
  },
  mi_alloc: {
    parameters: [
      "u64", // device
      "u64", // bytes
      "buffer", // uint64_t* buffer
      "buffer", // mi_error*
    ],
    result: "i32",
  },
  mi_alloc_host: {
    parameters: [
      "u64", // device
      "u64", // bytes
      "buffer", // uint64_t* buffer
      "buffer", // mi_error*
    ],
    result: "i32",
    nonblocking: true,
  },
  mi_free: {
    parameters: [
      "u64", // device
      "u64", // buffer
      "buffer", // mi_error*
    ],
    result: "i32",
  },
  mi_write: {
    parameters: [
      "u64", // device
      "u64", // buffer
      "u64", // offset
      "buffer", // const void* data
      "u64", // bytes
      "buffer", // mi_error*
    ],
    result: "i32",
    nonblocking: true,
  },
  mi_write_now: { // the same function, for small data on an idle queue
    name: "mi_write",
    parameters: ["u64", "u64", "u64", "buffer", "u64", "buffer"],
    result: "i32",
  },
  mi_read: {
    parameters: [
      "u64", // device
      "u64", // buffer
      "u64", // offset
      "buffer", // void* data
      "u64", // bytes
      "buffer", // mi_error*
    ],
    result: "i32",
    nonblocking: true,
  },
  mi_read_start: {
    parameters: [
      "u64", // device
      "u64", // buffer
      "u64", // offset
      "u64", // bytes
      "buffer", // uint64_t* read
      "buffer", // mi_error*
    ],
    result: "i32",
  },
  mi_read_finish: {
    parameters: [
      "u64", // device
      "u64", // read
      "buffer", // void* data
      "buffer", // mi_error*
    ],
    result: "i32",
    nonblocking: true,
  },
  mi_load: {
    parameters: [
      "u64", // device
      "u64", // buffer
      "u64", // offset
      "buffer", // const char* path
      "u64", // file_offset
      "u64", // bytes
      "buffer", // mi_error*
    ],
    result: "i32",
    nonblocking: true,
  },
  mi_copy: {
    parameters: [
      "u64", // device
      "u64", // dst
      "u64", // dst_offset
      "u64", // src
      "u64", // src_offset
      "u64", // bytes
      "buffer", // mi_error*
    ],
    result: "i32",
  },
  mi_plan: {
    parameters: [
      "u64", // device
      "buffer", // const mi_header* params
      "buffer", // uint64_t* out
      "buffer", // mi_error*
    ],
    result: "i32",
  },
  mi_submit: {
    parameters: [
      "u64", // device
      "buffer", // const mi_header* params
      "buffer", // mi_error*
    ],
    result: "i32",
  },
  mi_submit_batch: {
    parameters: [
      "u64", // device
      "buffer", // const void* params
      "u64", // bytes
      "buffer", // mi_error*
    ],
    result: "i32",
  },
  mi_sync: {
    parameters: [
      "u64", // device
      "buffer", // mi_error*
    ],
    result: "i32",
    nonblocking: true,
  },
  mi_cancel: {
    parameters: [
      "u64", // device
      "buffer", // mi_error*
    ],
    result: "i32",
  },
  mi_progress: {
    parameters: [
      "u64", // device
      "buffer", // uint64_t* out
      "buffer", // mi_error*
    ],
    result: "i32",
  },
  mi_timings: {
    parameters: [
      "u64", // device
      "buffer", // uint64_t* out
      "buffer", // mi_error*
    ],
    result: "i32",
  },
  mi_profile: {
    parameters: [
      "u64", // device
      "i32", // on
      "buffer", // mi_error*
    ],
    result: "i32",
  },
} as const satisfies Deno.ForeignLibraryInterface;
