#!/bin/sh
# Runs training, evaluation, prediction, profile and self-test under the Vulkan validation layers (Debian: vulkan-validationlayers) with
# synchronisation validation. The exit code is 0 only if the layer was loaded, its messages were captured, and it reported nothing.
#
#   sh scripts/vulkan-validation.sh
# shellcheck disable=SC2086 # $train is several words.
set -eu
program=$(realpath "${FMNIST_GPU:-target/release/fmnist-gpu}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation VK_LAYER_SETTINGS_PATH="$work" WGPU_BACKEND=vulkan

# settings FEATURE: sets what the layer checks and the file that it writes to.
settings() {
    cat >vk_layer_settings.txt <<EOF
khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG
khronos_validation.report_flags = error,warn,perf
khronos_validation.log_filename = $work/messages.txt
khronos_validation.duplicate_message_limit = 10
khronos_validation.enables = $1
EOF
}

# Proves that the layer works and its messages are captured: its best-practice advice, which is not an error, always finds something.
settings VK_VALIDATION_FEATURE_ENABLE_BEST_PRACTICES_EXT
VK_LOADER_DEBUG=layer "$program" devices >devices.txt 2>loader.txt
"$program" train --model mlp --dataset synthetic --train-limit 64 --epochs 1 --no-report --quiet --out control >/dev/null
grep -q 'Loading layer library.*khronos_validation' loader.txt || { echo "the validation layer was not loaded:"; cat loader.txt; exit 2; }
[ -s messages.txt ] || { echo "no messages of the validation layer were captured"; exit 2; }
echo "control: the layer is loaded and its messages are captured ($(grep -c '^Validation\|BestPractices' messages.txt) lines of advice)"

settings VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT
total=0
check() {
    : >messages.txt
    "$program" "$@" --quiet >said.txt 2>&1 || { echo "fmnist-gpu $*: exit code $?"; cat said.txt; exit 2; }
    lines=$(wc -l <messages.txt)
    echo "$lines messages: fmnist-gpu $*"
    [ "$lines" -eq 0 ] || { total=$((total + lines)); head -c 4000 messages.txt; }
}
train="train --dataset synthetic --train-limit 640 --no-report --validation-split 0.2"
check $train --model cnn --epochs 1 --out cnn
check train --resume cnn --epochs 2 --no-report
check $train --model cnn --epochs 1 --safe --out safe
check $train --model mlp --epochs 2 --optimizer sgd --checkpoint-minutes 0.001 --out mlp
check evaluate cnn
check predict cnn --test-index 0..25
check report mlp --force
check profile --model cnn --batch-size 8
check selftest
check doctor --no-selftest
[ "$total" -eq 0 ]
