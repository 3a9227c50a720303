// The rendezvous store: c10d's TCPStore, seen through prefixes.
#include "store.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <cstring>

#include "error.h"

using cappa::guard;
using std::chrono::milliseconds;

extern "C" {

void cappa_numeric_names(void);  // names.cc

// `bound` receives the port, which a server of port 0 picks.
int cappa_store_tcp(const char* host, uint16_t port, int is_server, int64_t timeout_ms, cappa_store** out, uint16_t* bound) {
  return guard([&] {
    cappa_numeric_names();
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = is_server != 0;
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    auto root = c10::make_intrusive<c10d::TCPStore>(host, options);
    *bound = root->getPort();
    *out = new cappa_store{root, root, ""};
  });
}

int cappa_store_prefix(const cappa_store* s, const char* prefix, cappa_store** out) {
  return guard([&] {
    *out = new cappa_store{s->root, c10::make_intrusive<c10d::PrefixStore>(prefix, s->view), s->prefix + prefix + "/"};
  });
}

int cappa_store_set(cappa_store* s, const char* key, const uint8_t* value, size_t len) {
  return guard([&] { s->view->set(key, std::vector<uint8_t>(value, value + len)); });
}

// `value` is released by cappa_bytes_free.
int cappa_store_get(cappa_store* s, const char* key, uint8_t** value, size_t* len) {
  return guard([&] {
    auto bytes = s->view->get(key);
    *value = new uint8_t[bytes.size()];
    std::memcpy(*value, bytes.data(), bytes.size());
    *len = bytes.size();
  });
}

int cappa_store_add(cappa_store* s, const char* key, int64_t by, int64_t* sum) {
  return guard([&] { *sum = s->view->add(key, by); });
}

int cappa_store_wait(cappa_store* s, const char* key, int64_t timeout_ms) {
  return guard([&] { s->view->wait({key}, milliseconds(timeout_ms)); });
}

// Deletes every key under the store's prefix.
int cappa_store_clear(cappa_store* s, size_t* deleted) {
  return guard([&] {
    *deleted = 0;
    for (const auto& key : s->root->listKeys())
      if (key.compare(0, s->prefix.size(), s->prefix) == 0) *deleted += s->root->deleteKey(key);
  });
}

void cappa_store_free(cappa_store* s) {
  guard([&] { delete s; });
}
void cappa_bytes_free(uint8_t* bytes) { delete[] bytes; }

}  // extern "C"
