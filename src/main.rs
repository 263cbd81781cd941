//! The program.

/// The system's allocator gives memory back to the kernel and takes it again all the time, which stops the other
/// workers too: about the same on an idle machine, up to a sixth slower on a busy one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    onceproxy::cli::main()
}
