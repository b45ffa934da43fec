#!/bin/sh
# Build the wheels that there are none of for 32-bit ARM, inside an armhf Debian that has python3-venv, python3-dev, gcc,
# libc6-dev and libffi-dev:  foreign_wheels.sh ROOT OUT PYTHON NAME==VERSION…
# The sources are fetched here by PYTHON's pip; nothing is fetched in ROOT.
set -eu
root=$1 out=$2 python=$3
shift 3
mkdir -p "$out" "$root/sources" "$root/wheels"
for package in "$@"; do
    "$python" -P -m pip download -q --disable-pip-version-check --no-deps --no-binary="${package%%==*}" -d "$root/sources" "$package"
done
"$python" -P -m pip download -q --disable-pip-version-check -d "$root/sources" "setuptools>=80" setuptools-scm packaging wheel
cat >"$root/build.sh" <<'EOF'
set -e
export PIP_NO_INDEX=1 PIP_FIND_LINKS=/sources PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -I -m venv /build-environment
/build-environment/bin/pip install -q "setuptools>=80" setuptools-scm packaging wheel
/build-environment/bin/pip wheel -q --no-deps --no-build-isolation -w /wheels "$@"
EOF
chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 sh /build.sh "$@"
cp "$root"/wheels/*.whl "$out"
