#!/bin/sh
# Installs what a fresh machine needs to build and run fmnist-gpu: a C linker (for Rust) and a Vulkan driver, in software if there
# is no GPU. Does nothing if both are installed. Safe to run repeatedly.
set -eu

say() { printf 'setup: %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        say "root is required and sudo is not available; run as root: $*"
        exit 1
    fi
}

has_linker() { command -v cc >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || command -v clang >/dev/null 2>&1; }

# The loader is a shared library; the drivers are JSON files that point to one.
has_loader() {
    if command -v ldconfig >/dev/null 2>&1 && ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1'; then
        return 0
    fi
    for dir in /usr/lib /usr/lib64 /usr/local/lib /usr/lib/*-linux-gnu /lib /run/opengl-driver/lib; do
        [ -e "$dir/libvulkan.so.1" ] && return 0
    done
    return 1
}

has_driver() {
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && return 0
    for dir in /usr/share/vulkan/icd.d /usr/local/share/vulkan/icd.d /etc/vulkan/icd.d \
        "${XDG_DATA_HOME:-${HOME:-/root}/.local/share}/vulkan/icd.d" /run/opengl-driver/share/vulkan/icd.d; do
        for file in "$dir"/*.json; do
            [ -e "$file" ] && return 0
        done
    done
    return 1
}

install_linux() {
    linker=no; vulkan=no
    has_linker || linker=yes
    { has_loader && has_driver; } || vulkan=yes
    if [ "$linker" = no ] && [ "$vulkan" = no ]; then
        say "a linker and a Vulkan driver are installed; nothing to do"
        return
    fi
    if command -v apt-get >/dev/null 2>&1; then
        set --
        [ "$linker" = no ] || set -- "$@" gcc libc6-dev
        [ "$vulkan" = no ] || set -- "$@" libvulkan1 mesa-vulkan-drivers
        say "installing with apt-get: $*"
        as_root apt-get update
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
    elif command -v dnf >/dev/null 2>&1; then
        set --
        [ "$linker" = no ] || set -- "$@" gcc
        [ "$vulkan" = no ] || set -- "$@" vulkan-loader mesa-vulkan-drivers
        say "installing with dnf: $*"
        as_root dnf install -y "$@"
    elif command -v pacman >/dev/null 2>&1; then
        set --
        [ "$linker" = no ] || set -- "$@" gcc
        [ "$vulkan" = no ] || set -- "$@" vulkan-icd-loader vulkan-swrast
        say "installing with pacman: $*"
        as_root pacman -Sy --noconfirm --needed "$@"
    elif command -v zypper >/dev/null 2>&1; then
        set --
        [ "$linker" = no ] || set -- "$@" gcc
        [ "$vulkan" = no ] || set -- "$@" libvulkan1 libvulkan_lvp
        say "installing with zypper: $*"
        as_root zypper --non-interactive install "$@"
    elif command -v apk >/dev/null 2>&1; then
        set --
        [ "$linker" = no ] || set -- "$@" gcc musl-dev
        [ "$vulkan" = no ] || set -- "$@" vulkan-loader mesa-vulkan-swrast
        say "installing with apk: $*"
        as_root apk add "$@"
    else
        say "unsupported package manager. Install a C linker (cc), the Vulkan loader (libvulkan.so.1) and a driver;"
        say "the software driver is Mesa's lavapipe"
        exit 1
    fi
}

case "$(uname -s)" in
Linux) install_linux ;;
Darwin) say "macOS has Metal; nothing to do" ;;
MINGW* | MSYS* | CYGWIN*) say "Windows has DX12, in software with WARP; nothing to do" ;;
*) say "unknown system $(uname -s); install a Vulkan loader and a driver" ;;
esac

if ! command -v cargo >/dev/null 2>&1; then
    say "Rust is not installed: see https://rustup.rs"
    exit 1
fi
