//! A prompt in a lab of two guests, for a developer: one terminal, one guest at a time.
//!
//! Each guest has a shell on its console. Ctrl-] goes to the other guest; when a shell ends, the lab does.

use super::guest::{Guest, Running};
use super::lab::{Bench, Choices, Lab, Network};
use crate::lab::{Family, Side};
use anyhow::{Context, Result};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

/// Ctrl-].
const SWITCH: u8 = 0x1d;
/// How often consoles are looked at.
const GLANCE: Duration = Duration::from_millis(20);
/// Without a terminal: how long the guests may be silent after the end of the input.
const SILENCE: Duration = Duration::from_secs(5);

/// Boots the lab and stays in it until a shell ends, or the input does.
pub fn run(bench: Bench<'_>) -> Result<()> {
    let lab = Lab::boot(bench, Choices::default())?;
    eprintln!("Two guests with Linux {}, joined by {} cables:", bench.image.kernel.release, lab.links());
    for side in [Side::Left, Side::Right] {
        let addresses = (1..=lab.links()).map(|number| {
            let address = |family| lab.address(side, number, family);
            let name = side.interface(number);
            format!("{name} {} {}", address(Family::Ipv4), address(Family::Ipv6))
        });
        eprintln!("  {:<6} {}", lab.guest(side).name(), addresses.collect::<Vec<_>>().join(", "));
    }
    eprintln!("Try `mptcp listen 5000` on the right. Ctrl-] goes to the other guest, Ctrl-D ends the lab.");
    let consoles = [Console::start(&lab.left)?, Console::start(&lab.right)?];
    let done = relay(consoles);
    eprintln!();
    lab.finish()?;
    done
}

/// A guest's console with a shell.
struct Console<'g> {
    guest: &'g Guest,
    shell: Running<'g>,
    shown: usize,
}

impl<'g> Console<'g> {
    fn start(guest: &'g Guest) -> Result<Self> {
        let shown = guest.console_from(0).len();
        let script = format!(
            "export PS1='{}# ' TERM=vt100 HOME=/root; cd; exec busybox setsid -c dash -i <>/dev/ttyS0 >&0 2>&1",
            guest.name()
        );
        Ok(Self { guest, shell: guest.start_program(&["sh", "-c", &script])?, shown })
    }

    /// Shows what is new. Whether there was anything.
    fn show(&mut self) -> Result<bool> {
        let octets = self.guest.console_from(self.shown);
        self.shown += octets.len();
        let mut out = io::stdout().lock();
        out.write_all(&octets)?;
        out.flush()?;
        Ok(!octets.is_empty())
    }
}

fn relay(mut consoles: [Console<'_>; 2]) -> Result<()> {
    let _raw = Raw::new()?;
    let terminal = io::stdin().is_terminal();
    let keys = keyboard();
    let mut current = 0;
    let mut over = false;
    let mut asked = Instant::now();
    let mut heard = Instant::now();
    loop {
        let new = consoles[current].show()?;
        if new || !over {
            heard = Instant::now();
        }
        match keys.try_recv() {
            Ok(SWITCH) => {
                current = 1 - current;
                // A new prompt, so that one sees where one is.
                consoles[current].guest.type_on_console(b"\n")?;
                continue;
            }
            Ok(key) => {
                // Guests take no more than a few octets at once.
                consoles[current].guest.type_on_console(&[key])?;
                continue;
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => over = true,
        }
        if over && (terminal || heard.elapsed() > SILENCE) {
            return Ok(());
        }
        if asked.elapsed() > Duration::from_millis(500) {
            asked = Instant::now();
            for console in &mut consoles {
                if !console.shell.is_running()? {
                    return console.show().map(drop);
                }
            }
        }
        thread::sleep(GLANCE);
    }
}

/// The typed bytes; ends with the input.
fn keyboard() -> mpsc::Receiver<u8> {
    let (keys, typed) = mpsc::channel();
    thread::spawn(move || {
        let mut octet = [0];
        while let Ok(1) = io::stdin().lock().read(&mut octet) {
            if keys.send(octet[0]).is_err() {
                break;
            }
        }
    });
    typed
}

/// The terminal passes all keys as they are, until this is dropped; nothing where there is no terminal.
struct Raw(Option<libc::termios>);

impl Raw {
    fn new() -> Result<Self> {
        let input = io::stdin();
        if !input.is_terminal() {
            return Ok(Self(None));
        }
        // SAFETY: termios is plain old data, written before it is read; the descriptor is open.
        let (before, failed) = unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            let asked = libc::tcgetattr(input.as_raw_fd(), &raw mut settings);
            let before = settings;
            libc::cfmakeraw(&raw mut settings);
            let failed = libc::tcsetattr(input.as_raw_fd(), libc::TCSANOW, &raw const settings);
            (before, asked != 0 || failed != 0)
        };
        if failed {
            return Err(io::Error::last_os_error()).context("can't set up the terminal");
        }
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // SAFETY: settings that the terminal gave.
            unsafe { libc::tcsetattr(io::stdin().as_raw_fd(), libc::TCSANOW, before) };
        }
    }
}
