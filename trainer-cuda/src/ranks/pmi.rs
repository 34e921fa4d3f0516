//! What MPI's processes ask their launcher, answered by rank 0 where the launcher speaks no MPI: torchrun, Ray, `srun`.
//!
//! PMI 1.1, MPICH's interface to launchers (Balaji et al. 2010), in its wire form: a line `cmd=... key=value ...` and a
//! line in answer. Processes leave their addresses under keys, wait for each other, and read those of the others.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The name of the only store of keys; any will do.
const STORE: &str = "tunesmith";

/// What the processes share.
struct Store {
    n_processes: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    values: HashMap<String, String>,
    /// Processes that wait at the barrier.
    waiting: usize,
    /// Barriers that all have passed.
    passed: usize,
    /// A process went away: nobody waits for it.
    broken: bool,
}

/// Answers the processes at the other ends of `streams`, one for each rank, from threads that end with them.
///
/// # Errors
/// Where a thread can't be started.
pub(super) fn serve<S: Read + Write + Send + 'static>(streams: Vec<S>) -> io::Result<()> {
    let store = Store { n_processes: streams.len(), state: Mutex::default(), changed: Condvar::new() };
    let store = Arc::new(store);
    for stream in streams {
        let store = store.clone();
        thread::Builder::new().name("pmi".to_owned()).spawn(move || store.serve(stream))?;
    }
    Ok(())
}

impl Store {
    fn serve(&self, stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        loop {
            line.clear();
            let answered = match stream.read_line(&mut line) {
                Ok(1..) => self.answer(line.trim_end()),
                _ => None,
            };
            let Some(answer) = answered else { break };
            let written = stream.get_mut().write_all(format!("{answer}\n").as_bytes());
            if written.is_err() || line.starts_with("cmd=finalize") {
                break;
            }
        }
        if !line.starts_with("cmd=finalize") {
            self.lock().broken = true;
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` where nothing can be answered: the connection ends, and the process with it.
    fn answer(&self, line: &str) -> Option<String> {
        let pairs = line.split_whitespace().filter_map(|pair| pair.split_once('='));
        let asked: HashMap<&str, &str> = pairs.collect();
        let answer = match *asked.get("cmd")? {
            "init" => "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0".to_owned(),
            "get_maxes" => "cmd=maxes kvsname_max=256 keylen_max=64 vallen_max=1024".to_owned(),
            "get_appnum" => "cmd=appnum appnum=0".to_owned(),
            "get_my_kvsname" => format!("cmd=my_kvsname kvsname={STORE}"),
            "get_universe_size" => format!("cmd=universe_size size={}", self.n_processes),
            "put" => {
                self.lock().values.insert((*asked.get("key")?).to_owned(), (*asked.get("value")?).to_owned());
                "cmd=put_result rc=0 msg=success".to_owned()
            }
            // A key that is not there is an answer: MPICH finds out for itself which processes share a host.
            "get" => match self.lock().values.get(*asked.get("key")?) {
                Some(value) => format!("cmd=get_result rc=0 msg=success value={value}"),
                None => "cmd=get_result rc=-1 msg=key_not_found value=unknown".to_owned(),
            },
            "barrier_in" => {
                self.wait_for_all()?;
                "cmd=barrier_out".to_owned()
            }
            "finalize" => "cmd=finalize_ack".to_owned(),
            _ => return None,
        };
        Some(answer)
    }

    fn wait_for_all(&self) -> Option<()> {
        let mut state = self.lock();
        state.waiting += 1;
        if state.waiting == self.n_processes {
            (state.waiting, state.passed) = (0, state.passed + 1);
            self.changed.notify_all();
            return Some(());
        }
        let before = state.passed;
        let still = |state: &mut State| state.passed == before && !state.broken;
        let state = self.changed.wait_while(state, still).unwrap_or_else(PoisonError::into_inner);
        (state.passed > before).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    struct Process(BufReader<UnixStream>);

    impl Process {
        fn ask(&mut self, line: &str) -> String {
            self.0.get_mut().write_all(format!("{line}\n").as_bytes()).expect("the server reads");
            let mut answer = String::new();
            self.0.read_line(&mut answer).expect("an answer, or the end");
            answer
        }
    }

    fn two_processes() -> [Process; 2] {
        let pairs = [0; 2].map(|_| UnixStream::pair().expect("a pair"));
        let [(a, a_end), (b, b_end)] = pairs;
        serve(vec![a_end, b_end]).expect("threads");
        [a, b].map(|stream| Process(BufReader::new(stream)))
    }

    #[test]
    fn what_one_process_puts_before_a_barrier_the_other_gets_behind_it() {
        let [mut a, mut b] = two_processes();
        let other = thread::spawn(move || {
            assert_eq!(b.ask("cmd=put kvsname=tunesmith key=k-1 value=ab12"), "cmd=put_result rc=0 msg=success\n");
            assert_eq!(b.ask("cmd=barrier_in"), "cmd=barrier_out\n");
            assert_eq!(b.ask("cmd=finalize"), "cmd=finalize_ack\n");
        });
        assert_eq!(
            a.ask("cmd=init pmi_version=1 pmi_subversion=1"),
            "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0\n"
        );
        assert_eq!(a.ask("cmd=get_universe_size"), "cmd=universe_size size=2\n");
        assert_eq!(
            a.ask("cmd=get kvsname=tunesmith key=none"),
            "cmd=get_result rc=-1 msg=key_not_found value=unknown\n"
        );
        assert_eq!(a.ask("cmd=barrier_in"), "cmd=barrier_out\n");
        assert_eq!(a.ask("cmd=get kvsname=tunesmith key=k-1"), "cmd=get_result rc=0 msg=success value=ab12\n");
        other.join().expect("the other process");
    }

    #[test]
    fn a_process_that_goes_away_ends_the_wait_of_the_others() {
        let [mut a, b] = two_processes();
        let other = thread::spawn(move || {
            thread::sleep(std::time::Duration::from_millis(50));
            drop(b);
        });
        assert_eq!(a.ask("cmd=barrier_in"), "", "the connection ends");
        other.join().expect("the other process");
    }
}
