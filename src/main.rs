//! The program.

fn main() -> std::process::ExitCode {
    onceproxy::cli::main()
}
