//! The program: see `sendly-gateway --help`.

use std::process::ExitCode;

// A tenth of a request's CPU, and most of what the system's allocator keeps of an idle connection.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sendly_gateway::cli::main()
}
