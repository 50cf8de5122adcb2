// floor.c: the time of the memory itself, against which a loss is timed. It does almost no arithmetic.
//
//   forward   reads the logits once
//   gradient  reads them once, then reads them again and writes a fresh result of the same size once
//
// All threads share the bytes in small chunks, as in the library's own loops. The caller takes chunks from the front,
// and the others take them from the back. So a thread that wakes late does not delay the others, and threads meet in
// the pages of the result only at the end. Results come from malloc, as XLA's do, and ask for huge pages as
// cpp/huge_pages.h does.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { kLine = 8 };  // 64-bit words of a cache line

typedef struct {
  const uint64_t* in;
  uint64_t* out;  // NULL: the job only reads
  size_t words, grain, chunks;
  atomic_size_t taken, from_back;
} Job;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t begun = PTHREAD_COND_INITIALIZER, ended = PTHREAD_COND_INITIALIZER;
static Job* open_job;  // mutex guards it, generation and active
static uint64_t generation;
static int active, thread_count = 1;
static _Atomic uint64_t sink;  // keeps the compiler from dropping the reads

static uint64_t ReadChunk(const uint64_t* in, size_t words) {
  uint64_t sum[kLine] = {0};
  size_t i = 0;
  for (; i + kLine <= words; i += kLine) {
    for (int j = 0; j < kLine; ++j) sum[j] += in[i + j];
  }
  for (; i < words; ++i) sum[0] += in[i];
  for (int j = 1; j < kLine; ++j) sum[0] += sum[j];
  return sum[0];
}

// The compiler does not know the key. It would turn a plain copy into memcpy, which writes around the caches.
static void CopyChunk(const uint64_t* in, uint64_t* out, size_t words, uint64_t key) {
  for (size_t i = 0; i < words; ++i) out[i] = in[i] ^ key;
}

static void Work(Job* job, int from_front) {
  uint64_t sum = 0;
  for (size_t mine = 0; atomic_fetch_add(&job->taken, 1) < job->chunks; ++mine) {
    const size_t begin = job->grain * (from_front ? mine : job->chunks - 1 - atomic_fetch_add(&job->from_back, 1));
    const size_t words = job->words - begin < job->grain ? job->words - begin : job->grain;
    if (job->out) {
      CopyChunk(job->in + begin, job->out + begin, words, atomic_load(&sink));
    } else {
      sum += ReadChunk(job->in + begin, words);
    }
  }
  if (!job->out) atomic_fetch_add(&sink, sum);
}

static void* Worker(void* unused) {
  uint64_t seen = 0;
  pthread_mutex_lock(&mutex);
  for (;;) {
    while (seen == generation || !open_job) pthread_cond_wait(&begun, &mutex);
    seen = generation;
    Job* job = open_job;
    ++active;
    pthread_mutex_unlock(&mutex);
    Work(job, 0);
    pthread_mutex_lock(&mutex);
    if (--active == 0) pthread_cond_signal(&ended);
  }
  return unused;
}

static void Run(const void* in, void* out, size_t bytes) {
  const size_t words = bytes / sizeof(uint64_t);
  size_t grain = words / (8 * thread_count);
  if (grain > 1 << 17) grain = 1 << 17;  // 1 MiB, which fits the second-level cache
  if (grain < 1 << 13) grain = 1 << 13;  // 64 KiB
  Job job = {.in = in, .out = out, .words = words, .grain = grain, .chunks = (words + grain - 1) / grain};
  if (thread_count == 1 || words <= grain) {
    Work(&job, 1);
    return;
  }
  pthread_mutex_lock(&mutex);
  open_job = &job;
  ++generation;
  pthread_cond_broadcast(&begun);
  pthread_mutex_unlock(&mutex);
  Work(&job, 1);
  pthread_mutex_lock(&mutex);
  open_job = NULL;  // a worker that comes now finds nothing to do
  while (active) pthread_cond_wait(&ended, &mutex);
  pthread_mutex_unlock(&mutex);
}

static void AdviseHugePages(void* data, size_t bytes) {
#ifdef MADV_HUGEPAGE
  const uintptr_t huge = (uintptr_t)2 << 20;
  const uintptr_t begin = ((uintptr_t)data + huge - 1) & ~(huge - 1);
  const uintptr_t end = ((uintptr_t)data + bytes) & ~(huge - 1);
  if (end > begin) madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#endif
}

// Must be called only once in a process. Returns 0, or the error of pthread_create.
int floor_start(int threads) {
  for (; thread_count < threads; ++thread_count) {
    pthread_t thread;
    const int error = pthread_create(&thread, NULL, Worker, NULL);
    if (error) return error;
  }
  return 0;
}

void floor_forward(const void* logits, size_t bytes) { Run(logits, NULL, bytes); }

// The caller owns the result and must pass it to floor_free.
void* floor_gradient(const void* logits, size_t bytes) {
  void* result = NULL;
  if (posix_memalign(&result, 64, bytes)) return NULL;
  AdviseHugePages(result, bytes);
  Run(logits, NULL, bytes);
  Run(logits, result, bytes);
  return result;
}

void floor_free(void* result) { free(result); }
