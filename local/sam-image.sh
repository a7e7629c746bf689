#!/usr/bin/env bash
# Builds a replacement for the image of Lambda's Python 3.13, if no registry of images can be reached:
# Debian trixie's Python 3.13 with PyPI's awslambdaric, the client of the Lambda runtime.
#
#   local/sam-image.sh NAME
#
# It needs root, docker and mmdebstrap, on Debian, and PYTHON with pip, python3 if it is not set. MIRROR
# is a mirror of Debian, if not the usual one.
set -euo pipefail

name=$1
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

mmdebstrap --quiet --mode=root --variant=extract --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
  --include=python3,ca-certificates,coreutils,dash,base-files,libstdc++6 \
  --dpkgopt='path-exclude=/usr/share/doc/*' trixie "$root" ${MIRROR:+"$MIRROR"}

# No package was configured, only unpacked.
cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"

mkdir -p "$root"/var/{task,runtime,rapid,lang/bin} "$root/opt"
ln -s /usr/bin/python3.13 "$root/var/lang/bin/python3.13"
ln -s python3.13 "$root/var/lang/bin/python3"
"${PYTHON:-python3}" -m pip install --quiet --no-compile --target "$root/var/runtime" --python-version 3.13 \
  --only-binary=:all: --platform "manylinux2014_$(uname -m)" awslambdaric==4.2.2
cat >"$root/var/runtime/bootstrap" <<'END'
#!/bin/sh
export AWS_EXECUTION_ENV=AWS_Lambda_python3.13
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}/var/task:/opt/python:/var/runtime"
exec /var/lang/bin/python3.13 -m awslambdaric "$_HANDLER"
END
chmod 755 "$root/var/runtime/bootstrap"
chroot "$root" python3.13 -m compileall -q /usr/lib/python3.13 /var/runtime || true

# awslambdaric works silently without its C extension; fail now if it cannot be loaded.
chroot "$root" env PYTHONPATH=/var/runtime python3.13 -c 'import runtime_client, awslambdaric, ssl'

rm -rf "$root"/usr/share/{doc,man,locale,info} "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin
libraries=/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib
tar -C "$root" --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' -c . |
  docker import \
    -c 'ENV PATH=/var/lang/bin:/usr/local/bin:/usr/bin:/bin:/opt/bin' \
    -c 'ENV LANG=C.UTF-8' \
    -c 'ENV TZ=:/etc/localtime' \
    -c "ENV LD_LIBRARY_PATH=$libraries" \
    -c 'ENV LAMBDA_TASK_ROOT=/var/task' \
    -c 'ENV LAMBDA_RUNTIME_DIR=/var/runtime' \
    -c 'WORKDIR /var/task' \
    -c 'ENTRYPOINT ["/var/runtime/bootstrap"]' \
    - "$name"
