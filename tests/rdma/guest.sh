#!/bin/bash
# guest.sh [options] -- COMMAND [ARG...]   run COMMAND in a throw-away virtual machine
# guest.sh --check                         fetch the kernel; 0, or 77 and what is missing, with the line that gets it
#
#   -w DIR         DIR is written through to the host (repeatable); every other write is lost with the guest
#   -e NAME=VALUE  in COMMAND's environment (repeatable)
#   -m MIB         memory (2048)
#   -c N           CPUs (all)
#   -t SECONDS     limit for boot and COMMAND together (300)
#   -v             show the guest's console
#
# The kernel is Debian's own, so it has what a test needs and this machine's kernel may lack: soft-RoCE (device rxe0,
# 10.77.0.1), kernel TLS, network emulation (tc netem), veth. The files are this machine's: its root, read-only, under a
# scratch layer, so Python, .venv and the repository lie at the same paths. Needs neither KVM nor root.
#
# Exits as COMMAND does; 124: the limit passed; 125: no guest, with the reason on stderr.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin # an ordinary user may lack them

modules_for_root=(virtio_pci 9pnet_virtio 9p overlay)
modules_for_tests=(virtio_console virtio_rng dummy veth sch_netem tls rdma_rxe ib_uverbs rdma_ucm)
kernel_packages=(linux-image-6.12-amd64 linux-image-amd64) # the first that apt knows; cloud flavours lack rxe and 9p

usage() { sed -n 2,17p "$0" >&2; exit 125; }
fail() { echo "guest.sh: $*" >&2; exit 125; }

shared=() variables=() memory=2048 cpus=$(nproc) limit=300 verbose=0 check=0
if [ "${1:-}" = --check ]; then
  check=1
else
  while getopts w:e:m:c:t:v option; do
    case $option in
      w) shared+=("$(realpath -e "$OPTARG")") || fail "-w $OPTARG: no such folder" ;;
      e) variables+=("$OPTARG") ;;
      m) memory=$OPTARG ;;
      c) cpus=$OPTARG ;;
      t) limit=$OPTARG ;;
      v) verbose=1 ;;
      *) usage ;;
    esac
  done
  shift $((OPTIND - 1))
  [ $# -gt 0 ] || usage
fi

# ---- what this machine must have

lacking() { # say why there can be no guest; exit
  if [ $check = 1 ]; then echo "$*"; exit 77; fi
  fail "$*"
}

require() {
  local missing=() packages=() need package
  while read -r need package; do
    case $need in
      /*) [ -e "$need" ] && continue ;;
      *) command -v "$need" >/dev/null && continue ;;
    esac
    missing+=("$need")
    packages+=("$package")
  done <<'NEEDS'
qemu-system-x86_64 qemu-system-x86
busybox busybox-static
cpio cpio
xz xz-utils
modprobe kmod
ip iproute2
rdma iproute2
setpriv util-linux
flock util-linux
apt-get apt
dpkg-deb dpkg
/etc/libibverbs.d/rxe.driver ibverbs-providers
NEEDS
  if command -v busybox >/dev/null && LC_ALL=C ldd "$(command -v busybox)" >/dev/null 2>&1; then
    missing+=('a static busybox')
    packages+=(busybox-static)
  fi
  [ ${#missing[@]} -eq 0 ] || lacking "missing ${missing[*]}: apt-get install" \
    "$(printf '%s\n' "${packages[@]}" | sort -u | tr '\n' ' ' | sed 's/ $//')"
}

# The kernel's package is unpacked into the cache once; nothing is installed. apt has checked it against Debian's signature.
fetch_kernel() {
  local cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/gpudisagg/guest-kernel package='' name part
  mkdir -p "$cache"
  exec {lock}>"$cache/.lock"
  flock -w 600 "$lock" || lacking "another guest.sh has held $cache/.lock for ten minutes"
  kernel=$(find "$cache" -mindepth 1 -maxdepth 1 -type d -name 'linux-image-*' | sort -V | tail -n 1)
  if [ -z "$kernel" ]; then
    for name in "${kernel_packages[@]}"; do
      package=$(apt-cache depends "$name" 2>/dev/null | awk '/Depends: linux-image-/ && !package { package = $2 } END { print package }')
      [ -z "$package" ] || break
    done
    [ -n "$package" ] || lacking "apt knows none of ${kernel_packages[*]} (Debian 12 or later has them): apt-get update"
    part=$(mktemp -d "$cache/.part.XXXXXX")
    undo+=("$part")
    local options=(-qq)
    [ "$(id -u)" != 0 ] || options+=(-o APT::Sandbox::User=root)
    (cd "$part" && timeout 300 apt-get "${options[@]}" download "$package" >&2) ||
      lacking "cannot download $package: apt-get update, or give this machine a way to its Debian mirror"
    dpkg-deb -x "$part"/*.deb "$part"
    rm -rf "$part"/*.deb "$part/usr/share"
    kernel=$cache/$package
    depmod -b "$part" "$(basename "$part"/lib/modules/*)"
    mv -T "$part" "$kernel"
  fi
  exec {lock}>&-
  release=$(basename "$kernel"/lib/modules/*)
}

undo=()
vm=''
finish() {
  [ -z "$vm" ] || kill "$vm" 2>/dev/null || true
  [ -z "$vm" ] || wait "$vm" 2>/dev/null || true
  [ ${#undo[@]} -eq 0 ] || rm -rf "${undo[@]}"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'exit 129' HUP

[ "$(uname -m)" = x86_64 ] || lacking "the guest is an x86-64 one, this machine is $(uname -m)"
require
fetch_kernel
[ $check = 0 ] || exit 0

run=$(mktemp -d "${TMPDIR:-/tmp}/gpud-guest.XXXXXX")
undo+=("$run")
mkdir -p "$run/control" "$run/initrd"/{bin,modules,proc,sys,dev,host,scratch,system}

# ---- first stage, in the initrd: this machine's root under a scratch layer

cp "$(command -v busybox)" "$run/initrd/bin/busybox"
ln -s busybox "$run/initrd/bin/sh"
number=100
for module in $(modprobe -d "$kernel" -S "$release" --show-depends -a "${modules_for_root[@]}" |
  awk '$1 == "insmod" && !seen[$2]++ { print $2 }'); do
  number=$((number + 1)) # the order in which they are loaded
  case $module in
    *.xz) xz -dc "$module" >"$run/initrd/modules/$number.ko" ;;
    *) cp "$module" "$run/initrd/modules/$number.ko" ;;
  esac
done
ninep=trans=virtio,version=9p2000.L,msize=524288
cat >"$run/initrd/init" <<INIT
#!/bin/sh
export PATH=/bin
for tool in mount mkdir insmod switch_root poweroff; do alias \$tool="busybox \$tool"; done
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for module in /modules/*; do insmod \$module; done
mount -t 9p -o $ninep,ro,cache=loose root /host &&
  mount -t tmpfs -o size=75% scratch /scratch && mkdir /scratch/files /scratch/work &&
  mount -t overlay -o lowerdir=/host,upperdir=/scratch/files,workdir=/scratch/work overlay /system ||
  { echo 'guest.sh: no root' >/dev/kmsg; poweroff -f; }
for folder in proc sys dev; do mount --move /\$folder /system/\$folder; done
mount -t tmpfs run /system/run && mkdir -p /system/run/control /system/run/scratch &&
  mount -t 9p -o $ninep,cache=none control /system/run/control
exec busybox switch_root /system /bin/bash /run/control/stage2
INIT
chmod +x "$run/initrd/init"
(cd "$run/initrd" && find . | cpio -o -H newc --quiet) >"$run/initrd.cpio"

# ---- second stage, process 1 in this machine's files: devices, then COMMAND

quoted() { [ $# = 0 ] || printf '%q ' "$@"; }
{
  cat <<STAGE
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
set -e
end() { sync; echo o >/proc/sysrq-trigger; sleep 60; }
trap end EXIT
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mkdir -p /lib/modules/$release
mount --bind $(quoted "$kernel/lib/modules/$release") /lib/modules/$release # the kernel asks for more by itself
modprobe -a ${modules_for_tests[*]}
hostname guest
ulimit -l unlimited
ip link set lo up
ip link add roce0 type dummy
ip link set roce0 mtu 4200 up # room for the largest RDMA path MTU, 4096, and its headers
ip address add 10.77.0.1/24 dev roce0
rdma link add rxe0 type rxe netdev roce0
STAGE
  for index in "${!shared[@]}"; do
    echo "mount -t 9p -o $ninep,cache=none shared$index $(quoted "${shared[$index]}")"
  done
  cat <<STAGE
set +e
exec </dev/null >\$(echo /dev/vport*p1) 2>\$(echo /dev/vport*p2)
(
  trap - EXIT
  cd $(quoted "$PWD") && exec env -i PATH=$(quoted "$PATH") HOME=$(quoted "${HOME:-/root}") LANG=C.UTF-8 \
    TMPDIR=/run/scratch XDG_CACHE_HOME=/run/scratch/cache GPUDISAGG_GUEST=1 $(quoted "${variables[@]}") $(quoted "$@")
)
echo \$? >/run/control/status
STAGE
} >"$run/control/stage2"

# ---- the machine; it ends when this script does, however that ends

machine=(-M q35 -accel tcg,thread=multi,tb-size=512 -cpu max -smp "$cpus" -m "$memory"
  -nodefaults -no-user-config -no-reboot -display none -serial "file:$run/console"
  -kernel "$(echo "$kernel"/boot/vmlinuz-*)" -initrd "$run/initrd.cpio"
  -append 'console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on net.ifnames=0'
  -device virtio-rng-pci -device virtio-serial-pci)
share() { # tag, folder, options
  machine+=(-fsdev "local,id=$1,path=${2//,/,,},security_model=none$3" -device "virtio-9p-pci,fsdev=$1,mount_tag=$1")
}
share root / ,readonly=on,multidevs=remap
share control "$run/control" ''
for index in "${!shared[@]}"; do share "shared$index" "${shared[$index]}" ''; done
for stream in 1 2; do # COMMAND's stdout and stderr leave through ports of their own
  machine+=(-add-fd "fd=$((stream + 2)),set=$stream" -chardev "file,id=stream$stream,path=/dev/fdset/$stream,append=on"
    -device "virtserialport,chardev=stream$stream,nr=$stream")
done

setpriv --pdeathsig TERM timeout -k 5 "$limit" setpriv --pdeathsig KILL \
  qemu-system-x86_64 "${machine[@]}" </dev/null 3>&1 4>&2 >"$run/qemu" 2>&1 &
vm=$!
ended=0
wait "$vm" || ended=$?
vm=''
[ $verbose = 0 ] || cat "$run/console" >&2 || true
if [ -s "$run/control/status" ]; then exit "$(cat "$run/control/status")"; fi
if [ $ended = 124 ] || [ $ended = 137 ]; then
  echo "guest.sh: not done after $limit s (-t)" >&2
  exit 124
fi
{ tail -n 30 "$run/console" || true; cat "$run/qemu"; } >&2
fail "the guest ended without a result (qemu: $ended); its console is above"
