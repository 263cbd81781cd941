# Names the recipes.
default:
    @{{just_executable()}} --list

# All tests, as CI runs them.
test:
    ./test

# Compares with nginx and writes docs/performance.md; takes about forty minutes and wants an idle machine.
bench *arguments:
    cargo build --release
    cargo bench --no-default-features --bench compare -- --keys --callgrind --write {{arguments}}

# The same in a few minutes, without instructions and a million keys; writes nothing.
bench-quick *arguments:
    cargo build --release
    cargo bench --no-default-features --bench compare -- --quick {{arguments}}

# Kills proxies under load, so many times; the last line that it prints belongs into docs/proof.md.
kill-loop kills="10000":
    ONCEPROXY_KILLS={{kills}} cargo test --all-features --test it -- --nocapture killed_proxies_keep_every_promise

# Fuzzes key, record, answer, request, wire, canonical_json or config; what it finds is kept in fuzz/findings.
fuzz target seconds="120" *arguments:
    ./fuzz/run {{target}} {{seconds}} {{arguments}}

fmt:
    cargo fmt

lint:
    cargo fmt --check
    cargo clippy --all-features --all-targets -- --deny warnings

deny:
    cargo deny check
