//! Records that come by HTTP, from more clients than there is room for, and from clients that mean harm: memory stays bounded, every
//! answer of 200 is in the topic, and the rest got a clear refusal.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::host::Host;
use crate::support::ingest::{Fate, Load, Place, shoot, statuses, value};
use crate::support::kafka::Kafka;
use crate::support::{PATIENCE, admin, http, wait_for};

const MIB: usize = 1 << 20;

/// What the process has had in memory at most.
fn peak_bytes(host: &Host) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Begins a request of so many bytes and says what is given of it.
fn begin(place: &Place, head: &str) -> Option<BufReader<TcpStream>> {
    let mut stream = http::connect(place.port).ok()?;
    let request = format!(
        "POST /producer/{} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{head}",
        place.topic
    );
    stream.get_mut().write_all(request.as_bytes()).ok()?;
    Some(stream)
}

/// Whoever connects over and over again and does this with it.
fn attack(
    clients: usize,
    stop: &Arc<AtomicBool>,
    attack: impl Fn(&AtomicBool) + Clone + Send + 'static,
) -> Vec<thread::JoinHandle<()>> {
    let attacker = |_| {
        let (stop, attack) = (Arc::clone(stop), attack.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                attack(&stop);
            }
        })
    };
    (0..clients).map(attacker).collect()
}

/// Sends a byte now and then, until it is cut off.
fn drip(stream: Option<BufReader<TcpStream>>, stop: &AtomicBool, byte: &[u8]) {
    let Some(mut stream) = stream else { return };
    stream
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    while !stop.load(Ordering::Acquire) && stream.get_mut().write_all(byte).is_ok() {
        match stream.read(&mut [0]) {
            // It says nothing yet.
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            _ => return,
        }
    }
}

#[test]
fn overload_and_hostile_clients_cost_bounded_memory_and_no_record() {
    let place = Arc::new(Place::new(Kafka::shared()));
    let limits = json!({
        "listen": format!("127.0.0.1:{}", place.port),
        "topics": [&place.topic],
        "body": "256KiB",
        "records": 100,
        "memory": "8MiB",
        "connections": 200,
        "client-timeout": "1s",
        "timeout": "5s",
    });
    // The stage behind it reads ahead, which is memory of its own.
    let read_ahead = ["kafka", "queued.max.messages.kbytes"];
    let pipeline = place.pipeline().set(&["ingest"], limits).set(&read_ahead, 1024);
    let host = place.start(&pipeline);
    // A load that it is made for, so that the memory of its parts is there.
    let usual = Load::start(&place, 4, |number| vec![value(number, 200_000)]);
    wait_for("the usual load to be served", PATIENCE, || {
        (usual.acknowledged() >= 200).then_some(())
    });
    let mut shots = usual.finish();
    assert_eq!(statuses(&shots).keys().collect::<Vec<_>>(), [&200]);
    let before = peak_bytes(&host);

    let stop = Arc::<AtomicBool>::default();
    let mut attackers = Vec::new();
    // Heads that never end.
    let at = Arc::clone(&place);
    attackers.extend(attack(60, &stop, move |stop| drip(begin(&at, "X-A: "), stop, b"a")));
    // Bodies that never end.
    let at = Arc::clone(&place);
    attackers.extend(attack(60, &stop, move |stop| {
        drip(begin(&at, "Content-Length: 200000\r\n\r\n"), stop, b" ")
    }));
    // Bodies without a measure, as fast as they are read.
    let at = Arc::clone(&place);
    attackers.extend(attack(4, &stop, move |stop| {
        let Some(mut stream) = begin(&at, "Transfer-Encoding: chunked\r\n\r\n") else {
            return;
        };
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        while !stop.load(Ordering::Acquire) && stream.get_mut().write_all(chunk.as_bytes()).is_ok() {}
    }));
    // Clients that ask and never read the answers.
    let at = Arc::clone(&place);
    attackers.extend(attack(8, &stop, move |stop| {
        let Some(mut stream) = begin(&at, "Content-Length: 2\r\n\r\n{}") else {
            return;
        };
        let again = "POST /producer/nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".repeat(100);
        stream
            .get_ref()
            .set_write_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        while !stop.load(Ordering::Acquire) && stream.get_mut().write_all(again.as_bytes()).is_ok() {}
    }));
    // Connections by the hundred, each with one request after the other, small and large.
    let load = Load::start(&place, 300, |number| {
        let number = 1_000_000 + number * 10;
        match number % 40 {
            0 => vec![value(number, 200_000)],
            10 => (0..10).map(|index| value(number + index, 10)).collect(),
            _ => vec![value(number, 300)],
        }
    });
    let began = Instant::now();
    let mut probes = 0;
    while began.elapsed() < Duration::from_secs(15) {
        // The process is there for its operator all the while.
        assert_eq!(
            admin::get(host.admin_port, "/healthz").map(|(status, _)| status),
            Some(200)
        );
        probes += 1;
        thread::sleep(Duration::from_millis(100));
    }
    wait_for("some requests of the crowd to be served", PATIENCE, || {
        (load.acknowledged() >= 500).then_some(())
    });
    let took = began.elapsed();
    let crowd = load.finish();
    stop.store(true, Ordering::Release);
    attackers.into_iter().for_each(|attacker| attacker.join().unwrap());
    let after = peak_bytes(&host);
    let counts = statuses(&crowd);
    println!(
        "{} requests in {took:?}, {probes} probes, by status {counts:?}; memory {} MiB before, {} MiB at most",
        crowd.len(),
        before / MIB,
        after / MIB
    );
    // 8 MiB of requests, 200 connections with 16 KiB of head and as much of socket buffers' copies, and what an allocator leaves between.
    assert!(after < before + 48 * MIB, "{} MiB more", (after - before) / MIB);
    assert!(
        counts.keys().all(|status| [0, 200, 408, 429, 503].contains(status)),
        "{counts:?}"
    );
    // A connection that the host closes for its idleness can meet the next request on its way; nothing else breaks one.
    let broken = counts.get(&0).copied().unwrap_or(0);
    assert!(
        broken * 100 <= crowd.len(),
        "{broken} of {} requests without an answer",
        crowd.len()
    );
    assert!(
        counts.get(&429).is_some_and(|count| *count > 0),
        "there was room for all: {counts:?}"
    );
    for shot in &crowd {
        if let Fate::Refused {
            status: 429 | 503,
            retry_after,
            ..
        } = &shot.fate
        {
            assert!(retry_after.is_some(), "{shot:?}");
        }
    }

    // And it serves on as if nothing had been.
    let mut client = place.client();
    let last = wait_for("the crowd to be gone", PATIENCE, || {
        let shot = shoot(&mut client, &place.topic, vec![value(999_999, 0)]);
        matches!(shot.fate, Fate::Acknowledged(_)).then_some(shot)
    });
    shots.push(last);
    shots.extend(crowd);
    let attackers_own = vec!["{}".to_owned()];
    let acknowledged = place.verify_beside(&shots, &attackers_own);
    println!("{acknowledged} records acknowledged, each in the topic once and as sent");
    let metrics = admin::get(host.admin_port, "/metrics").unwrap().1;
    assert!(admin::metric(&metrics, "wasmill_ingest_refused_total", &[]).unwrap() > 0.0);
    wait_for("all memory to be given back", PATIENCE, || {
        let metrics = admin::get(host.admin_port, "/metrics").unwrap().1;
        let held = admin::metric(&metrics, "wasmill_ingest_held_bytes", &[])?;
        let connections = admin::metric(&metrics, "wasmill_ingest_connections", &[])?;
        (held == 0.0 && connections <= 1.0).then_some(())
    });
}

#[test]
fn slow_clients_are_cut_off_and_others_do_not_wait_for_them() {
    let place = Place::new(Kafka::shared());
    let pipeline = place.pipeline().set(&["ingest", "client-timeout"], "1s");
    let _host = place.start(&pipeline);
    let head = begin(&place, "X-Never: ").unwrap();
    let body = begin(&place, "Content-Length: 100\r\n\r\n{").unwrap();
    let idle = http::connect(place.port).unwrap();
    assert!(matches!(
        shoot(&mut place.client(), &place.topic, vec![value(1, 0)]).fate,
        Fate::Acknowledged(_)
    ));
    let mut body = body;
    let answer = http::read(&mut body).unwrap();
    assert_eq!(
        (answer.status, answer.headers["connection"].as_str()),
        (408, "close"),
        "{answer:?}"
    );
    for mut stream in [head, idle, body] {
        let mut rest = Vec::new();
        // Closed, with or without a last word; never left open.
        stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.fill_buf().map(<[u8]>::len);
        let ended = stream.read_to_end(&mut rest);
        assert!(
            ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset),
            "{}",
            String::from_utf8_lossy(&rest)
        );
    }
}

#[test]
fn a_body_that_is_too_large_is_answered_while_it_is_being_sent() {
    let place = Place::new(Kafka::shared());
    let _host = place.start(&place.pipeline());
    let mut client = place.client();
    for _ in 0..20 {
        let answer = client.post(&place.topic, &[], &value(1, 8 * MIB)).unwrap();
        assert_eq!(answer.status, 413, "{answer:?}");
    }
    // One that announces far more is not waited for.
    let mut huge = begin(&place, "Content-Length: 99999999999\r\n\r\n{").unwrap();
    assert_eq!(http::read(&mut huge).unwrap().status, 413);
    // And one that asks first is spared it.
    let mut polite = begin(&place, "Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n").unwrap();
    assert_eq!(http::read(&mut polite).unwrap().status, 413);
    assert_eq!(place.verify(&[]), 0);
}

#[test]
fn a_connection_too_many_is_told_so() {
    let place = Place::new(Kafka::shared());
    let pipeline = place
        .pipeline()
        .set(&["ingest", "connections"], 2)
        .set(&["ingest", "client-timeout"], "60s");
    let _host = place.start(&pipeline);
    let mut clients = [place.client(), place.client()];
    for (number, client) in clients.iter_mut().enumerate() {
        assert!(matches!(
            shoot(client, &place.topic, vec![value(number, 0)]).fate,
            Fate::Acknowledged(_)
        ));
    }
    let answer = place.client().post(&place.topic, &[], &value(9, 100_000)).unwrap();
    assert_eq!(
        (answer.status, answer.headers["retry-after"].as_str()),
        (429, "1"),
        "{answer:?}"
    );
    assert_eq!(answer.headers["connection"], "close");
    drop(clients);
    wait_for("a connection to be free", PATIENCE, || {
        let shot = shoot(&mut place.client(), &place.topic, vec![value(10, 0)]);
        matches!(shot.fate, Fate::Acknowledged(_)).then_some(())
    });
}
