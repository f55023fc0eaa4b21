//! The misdeeds of a single record, by the text of its value.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What becomes of the record, if anything comes back at all.
pub(crate) enum Outcome {
    Forward,
    Reject(String),
    Retry(String),
}

pub(crate) fn commit(value: &str) -> Outcome {
    match value {
        "panic" => panic!("poisoned on purpose"),
        "loop" => spin(),
        "sleep" => std::thread::sleep(Duration::from_secs(3600)),
        "memory" => hoard(),
        "recurse" => {
            recurse(0);
        }
        "deep" => {
            descend(black_box(30_000));
        }
        "nap" => std::thread::sleep(Duration::from_millis(30)),
        "exit" => std::process::exit(3),
        "slow" => work(Duration::from_millis(50)),
        "stdout" => (1..=3).for_each(|line| println!("line {line} on purpose")),
        "reject" => return Outcome::Reject("rejected on purpose".to_owned()),
        "retry" => return Outcome::Retry("not now, and never".to_owned()),
        "retry-twice" => return retry_twice(),
        "env-args-fs" => return look_around(),
        other => {
            crate::flood::pour(other);
            return ask(other);
        }
    }
    Outcome::Forward
}

/// Tries what it is told to, `read PATH` for one, and rejects with what came of it; forwards what is no such order.
fn ask(value: &str) -> Outcome {
    let Some((order, name)) = value.split_once(' ') else {
        return Outcome::Forward;
    };
    let done = |done: std::io::Result<()>| done.map(|()| "done".to_owned());
    let tried = match order {
        "read" => std::fs::read_to_string(name),
        "hoard-files" => loop {
            match std::fs::File::open(name) {
                Ok(file) => std::mem::forget(file),
                Err(error) => break Err(error),
            }
        },
        "write" => done(std::fs::write(name, "written")),
        "append" => done(std::fs::OpenOptions::new().append(true).open(name).map(drop)),
        "remove" => done(std::fs::remove_file(name)),
        "folder" => done(std::fs::create_dir(name)),
        "variable" => std::env::var(name).map_err(std::io::Error::other),
        _ => return Outcome::Forward,
    };
    Outcome::Reject(match tried {
        Ok(found) => found,
        Err(error) => format!("refused: {error}"),
    })
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// Ends by the allocator's abort, when the host gives no more memory.
fn hoard() {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![1_u8; 1 << 20]));
    }
}

/// The addition after the call keeps it from becoming a loop; no array on the guest's own stack, so
/// that the host's limit is met first.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    if black_box(true) {
        recurse(black_box(depth) + 1).wrapping_add(black_box(1))
    } else {
        depth
    }
}

/// As deep as it is told, in a stack of some MiB.
#[inline(never)]
fn descend(depth: u64) -> u64 {
    match depth {
        0 => 0,
        _ => descend(black_box(depth) - 1).wrapping_add(black_box(1)),
    }
}

fn work(duration: Duration) {
    let start = Instant::now();
    let mut sum = 0_u64;
    while start.elapsed() < duration {
        for number in 0..10_000 {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(number));
        }
    }
}

/// Counts in memory that the host may throw away, which a real plugin must not do; an instance that
/// lives on gives in the third time.
fn retry_twice() -> Outcome {
    static TRIES: AtomicU32 = AtomicU32::new(0);
    if TRIES.fetch_add(1, Ordering::Relaxed) < 2 {
        return Outcome::Retry("not now".to_owned());
    }
    TRIES.store(0, Ordering::Relaxed);
    Outcome::Forward
}

/// Forwards if the sandbox is empty, else rejects with what is in it.
fn look_around() -> Outcome {
    let mut found = Vec::new();
    found.extend(std::env::vars_os().map(|(name, value)| format!("environment {name:?}={value:?}")));
    found.extend(std::env::args_os().map(|argument| format!("argument {argument:?}")));
    found.extend(folders().into_iter().map(|folder| format!("folder {folder}")));
    if std::fs::read_dir("/").is_ok() || std::fs::read_dir(".").is_ok() {
        found.push("a folder that can be read".to_owned());
    }
    let mut input = Vec::new();
    match std::io::Read::read_to_end(&mut std::io::stdin(), &mut input) {
        Ok(0) => {}
        Ok(count) => found.push(format!("{count} bytes of standard input")),
        // An input that is closed may say so, instead of being empty.
        Err(_) => {}
    }
    if found.is_empty() {
        Outcome::Forward
    } else {
        Outcome::Reject(found.join(", "))
    }
}

#[cfg(target_os = "wasi")]
fn folders() -> Vec<String> {
    wasip2::filesystem::preopens::get_directories()
        .into_iter()
        .map(|(_, path)| path)
        .collect()
}

/// Natively there is no sandbox to look at.
#[cfg(not(target_os = "wasi"))]
fn folders() -> Vec<String> {
    Vec::new()
}
