//! Misdeeds that ask too much of the host: words, handles, names.

use std::io::Write as _;

/// Does what the value names, if it names a flood.
pub(crate) fn pour(value: &str) {
    match value {
        "stdout-flood" => (0..20_000).for_each(|line| println!("line {line} of a flood")),
        "stdout-without-end-of-line" => (0..1_000).for_each(|_| print!("{}", "x".repeat(10_000))),
        "stderr-then-panic" => {
            let mut stderr = std::io::stderr();
            (0..1_000).for_each(|_| {
                let _ = stderr.write_all(&[0xff; 10_000]);
            });
            abort();
        }
        "huge-panic" => panic!("{}", "ä".repeat(10 << 20)),
        "pollables" => keep(&handles::pollable),
        "streams" => keep(&handles::stream),
        "exit-0" => std::process::exit(0),
        _ => {}
    }
}

/// Ends without a word on the way of panics.
fn abort() {
    #[cfg(target_family = "wasm")]
    core::arch::wasm32::unreachable();
}

/// Takes one after the other without an end.
fn keep(take: &dyn Fn()) {
    loop {
        take();
    }
}

/// Handles that are taken and never given back.
#[cfg(target_os = "wasi")]
mod handles {
    pub(super) fn pollable() {
        std::mem::forget(wasip2::clocks::monotonic_clock::subscribe_duration(1));
    }

    pub(super) fn stream() {
        std::mem::forget(wasip2::cli::stdout::get_stdout());
    }
}

/// Natively there is no host to ask.
#[cfg(not(target_os = "wasi"))]
mod handles {
    pub(super) fn pollable() {
        std::process::abort();
    }

    pub(super) fn stream() {
        std::process::abort();
    }
}
