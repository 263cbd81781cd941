//! The program.

/// The system's allocator gives memory back to the kernel and takes it again all the time, on all workers' account:
/// with it the proxy forwards a sixth less.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    onceproxy::cli::main()
}
