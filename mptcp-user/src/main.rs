//! The `mptcp` command.

mod cli;

fn main() -> ! {
    cli::main()
}
