#pragma once
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <string>

struct cappa_store {
  c10::intrusive_ptr<c10d::Store> root;
  c10::intrusive_ptr<c10d::Store> view;  // root seen under `prefix`
  std::string prefix;
};
