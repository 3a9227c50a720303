// c10d asks the resolver for the name of every peer of a store, only to have it for its logs. Where
// addresses have no names (pods, laptops) and the resolver is slow to say so, that holds up the
// forming of a group by seconds. This definition stands before libc's in the whole program and
// answers with the number.
#include <dlfcn.h>
#include <netdb.h>

extern "C" int getnameinfo(const sockaddr* addr, socklen_t addr_len, char* host, socklen_t host_len, char* service, socklen_t service_len, int flags) {
  using Function = decltype(&getnameinfo);
  static const auto libc_getnameinfo = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "getnameinfo"));
  return libc_getnameinfo(addr, addr_len, host, host_len, service, service_len, flags | NI_NUMERICHOST);
}

// Referred to by the rest of the shim, so that the linker takes this file.
extern "C" void cappa_numeric_names(void) {}
