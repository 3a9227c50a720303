#include "error.h"

#include <c10/util/Logging.h>

#include <cstdlib>

namespace cappa {

std::string& last_error() {
  static thread_local std::string message;
  return message;
}

int current_exception_code() noexcept {
  auto say = [](const std::string& what, Code code) {
    last_error() = what.substr(0, what.find('\n'));  // what follows are C++ stacks
    return code;
  };
  try {
    throw;
  } catch (const Aborted& e) {
    return say(e.what(), ABORTED);
  } catch (const Lost& e) {
    return say(e.what(), COLLECTIVE);
  } catch (const c10::DistStoreError& e) {
    return say(e.what_without_backtrace(), STORE);
  } catch (const c10::DistNetworkError& e) {
    return say(e.what_without_backtrace(), NETWORK);
  } catch (const c10::DistError& e) {
    return say(e.what_without_backtrace(), COLLECTIVE);
  } catch (const c10::Error& e) {
    return say(e.what_without_backtrace(), TORCH);
  } catch (const std::exception& e) {
    return say(e.what(), TORCH);
  } catch (...) {
    return say("unknown C++ exception", TORCH);
  }
}

}  // namespace cappa

extern "C" {

const char* cappa_last_error(void) { return cappa::last_error().c_str(); }

// Lets only fatal errors through to stderr, unless TORCH_CPP_LOG_LEVEL says otherwise.
void cappa_quiet(void) {
  if (!std::getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = c10::GLOG_FATAL;
}

}  // extern "C"
