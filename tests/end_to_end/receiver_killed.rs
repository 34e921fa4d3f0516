//! A receiver that is killed under load: what it has acknowledged is there.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tunesmith::telemetry::TelemetryStore;

use crate::home::Home;
use crate::serving::{PROTOBUF, Serving, ids, otlp_protobuf, post, stored_ids};

const KILLS: usize = 10;
const CLIENTS: usize = 4;
const SPANS: usize = 20;

#[test]
fn nothing_acknowledged_is_lost_when_it_is_killed() {
    let home = Home::empty();
    let (next, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let acknowledged = Mutex::new(BTreeSet::new());
    let server: Mutex<Option<(String, String)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    let Some((address, headers)) = server.lock().unwrap().clone() else {
                        std::thread::sleep(Duration::from_millis(1));
                        continue;
                    };
                    let first = next.fetch_add(SPANS, Ordering::Relaxed);
                    let body = otlp_protobuf(first..first + SPANS);
                    let answered = post(&address, "/v1/traces", &headers, &body);
                    // Anything but a whole answer is none.
                    if answered.is_ok_and(|answered| answered.status == 200 && answered.body.is_empty()) {
                        acknowledged.lock().unwrap().extend(ids(first..first + SPANS));
                    }
                }
            });
        }
        for kill in 0..KILLS {
            let serving = Serving::start(&home, &[]);
            let before = acknowledged.lock().unwrap().len();
            *server.lock().unwrap() = Some((serving.address.clone(), serving.headers(PROTOBUF)));
            let start = Instant::now();
            while acknowledged.lock().unwrap().len() == before {
                assert!(start.elapsed() < Duration::from_secs(60), "nothing is acknowledged in a minute");
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_micros(RandomState::new().hash_one(kill) % 200_000));
            serving.kill();
            *server.lock().unwrap() = None;
        }
        ended.store(true, Ordering::Relaxed);
    });

    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.len() >= KILLS * SPANS, "{}", acknowledged.len());
    TelemetryStore::open(&home.path("telemetry.sqlite")).unwrap();
    let store = rusqlite::Connection::open(home.path("telemetry.sqlite")).unwrap();
    let check: String = store.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let stored = stored_ids(&home);
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
    // And what was stored and not acknowledged is whole requests.
    assert_eq!(stored.len() % SPANS, 0);
}
