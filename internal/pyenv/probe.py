import json
import sys
import sysconfig

platform = sysconfig.get_platform()  # linux-x86_64, macosx-11.0-arm64
system = platform.split("-")[0]
libc = "none"
if system == "linux":
    triple = sysconfig.get_config_var("HOST_GNU_TYPE") or sysconfig.get_config_var("SOABI") or ""
    libc = "musl" if "musl" in triple else "glibc"
json.dump(
    {
        "path": sys.executable,
        "base": getattr(sys, "_base_executable", None) or sys.executable,
        "version": sys.version.split()[0],
        "implementation": sys.implementation.name,
        "old": sys.version_info < (3, 9),
        "tag": "cp%d%d%s" % (sys.version_info[0], sys.version_info[1], getattr(sys, "abiflags", "")),
        "os": "darwin" if system == "macosx" else system,
        "machine": platform.rsplit("-", 1)[-1],
        "libc": libc,
    },
    sys.stdout,
)
