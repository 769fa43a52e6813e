#!/bin/sh
# RUSTC_WRAPPER for the fuzz targets: coverage for our crates and for the parsers that
# they alone use, nothing for the rest (candle is not compiled again for this). All options
# are stable: no nightly compiler is needed.
instrumented='checkpoints image_data pipeline vq_autoencoder synth_fuzz serde_saphyr granit_parser png
  text_tokens tokenizers spm_precompiled'
flags='-Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing
  -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares'
name=''
previous=''
for argument in "$@"; do
  [ "$previous" = '--crate-name' ] && name=$argument
  previous=$argument
done
for crate in $instrumented; do
  [ "$crate" = "$name" ] && exec "$@" $flags
done
exec "$@"
