//! The `mptcp` command.

fn main() -> ! {
    mptcp_cli::main()
}
