//! Plugins of a process that lives long: read again when their files change.
//!
//! Nothing is watched: a look at the files on each use costs three system calls, needs no thread and works on every
//! file system. A new version that is refused, or only half copied, leaves the old one serving; it is tried again when
//! its files change again. Calls under way keep the plugin they have.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime};

use super::engine::PluginEngine;
use super::error::PluginError;
use super::manifest::PluginManifest;
use super::reference::PluginRef;
use super::registry::PluginPackage;
use super::resolution::Resolution;
use super::signature::PublicKey;
use super::{Extractor, Formatter, Policy};

/// The plugins of a process, by the row of the resolution table that they serve.
pub struct PluginHost {
    engine: Arc<PluginEngine>,
    extractors: Served<Extractor>,
    formatters: Served<Formatter>,
    policies: Served<Policy>,
}

impl PluginHost {
    /// Nothing is loaded before it is used.
    pub fn new(engine: Arc<PluginEngine>) -> Self {
        let (extractors, formatters, policies) = Default::default();
        Self { engine, extractors, formatters, policies }
    }

    /// The extractor of a row, as its files are now.
    ///
    /// # Errors
    /// What [`PluginError`] has for a plugin that does not fit or may not serve, where no earlier version did.
    pub fn extractor(&self, resolution: &Resolution) -> Result<Arc<Extractor>, PluginError> {
        self.extractors
            .get(resolution, |package| Ok(Extractor::load(&self.engine, package)?.for_tenant(&resolution.tenant)))
    }

    /// The formatter of a row, as its files are now.
    ///
    /// # Errors
    /// As [`PluginHost::extractor`].
    pub fn formatter(&self, resolution: &Resolution) -> Result<Arc<Formatter>, PluginError> {
        self.formatters
            .get(resolution, |package| Ok(Formatter::load(&self.engine, package)?.for_tenant(&resolution.tenant)))
    }

    /// The policy of a row, as its files are now.
    ///
    /// # Errors
    /// As [`PluginHost::extractor`].
    pub fn policy(&self, resolution: &Resolution) -> Result<Arc<Policy>, PluginError> {
        self.policies.get(resolution, |package| Ok(Policy::load(&self.engine, package)?.for_tenant(&resolution.tenant)))
    }
}

/// The plugins of one kind.
struct Served<P> {
    slots: Mutex<HashMap<Resolution, Arc<Slot<P>>>>,
}

impl<P> Default for Served<P> {
    fn default() -> Self {
        Self { slots: Mutex::default() }
    }
}

/// One row's plugin.
struct Slot<P> {
    serving: Mutex<Option<Version<P>>>,
    /// Held by who reads a new version; the others go on with the old one meanwhile.
    reading: Mutex<()>,
}

struct Version<P> {
    plugin: Arc<P>,
    identity: Identity,
    /// Of the files as they were last looked into; those of a version that was refused too, so that it is told once.
    seen: Stamps,
}

/// What makes a version another one: a file that was touched, or written again as it was, gives none.
#[derive(PartialEq)]
struct Identity {
    component: String,
    manifest: PluginManifest,
    signer: Option<PublicKey>,
}

impl<P> Served<P> {
    fn get(
        &self,
        resolution: &Resolution,
        load: impl FnOnce(&PluginPackage) -> Result<P, PluginError>,
    ) -> Result<Arc<P>, PluginError> {
        let slot = lock(&self.slots).entry(resolution.clone()).or_default().clone();
        let now = Stamps::of(&resolution.choice.plugin.plugin);
        if let Some(plugin) = slot.unchanged(&now) {
            return Ok(plugin);
        }
        let _reading = match slot.reading.try_lock() {
            Ok(reading) => reading,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => match &*lock(&slot.serving) {
                Some(version) => return Ok(version.plugin.clone()),
                None => lock(&slot.reading),
            },
        };
        // Whoever was reading may have read just these.
        match slot.unchanged(&now) {
            Some(plugin) => Ok(plugin),
            None => slot.renew(resolution, now, load),
        }
    }
}

impl<P> Default for Slot<P> {
    fn default() -> Self {
        Self { serving: Mutex::default(), reading: Mutex::default() }
    }
}

impl<P> Slot<P> {
    fn unchanged(&self, now: &Stamps) -> Option<Arc<P>> {
        let serving = lock(&self.serving);
        serving.as_ref().filter(|version| version.seen.still_true(now)).map(|version| version.plugin.clone())
    }

    /// Reads the files, whose stamps were `now` before. What is read is what is verified and compiled.
    fn renew(
        &self,
        resolution: &Resolution,
        now: Stamps,
        load: impl FnOnce(&PluginPackage) -> Result<P, PluginError>,
    ) -> Result<Arc<P>, PluginError> {
        let loaded = resolution.package().and_then(|package| {
            let PluginPackage { digest, manifest, signer, .. } = &package;
            let identity = Identity { component: digest.clone(), manifest: manifest.clone(), signer: *signer };
            let same =
                lock(&self.serving).as_ref().filter(|old| old.identity == identity).map(|old| old.plugin.clone());
            let plugin = same.map_or_else(|| load(&package).map(Arc::new), Ok)?;
            Ok(Version { plugin, identity, seen: now.clone() })
        });
        let mut serving = lock(&self.serving);
        match (loaded, &mut *serving) {
            (Ok(version), serving) => {
                if serving.as_ref().is_some_and(|old| old.identity != version.identity) {
                    tracing::info!(
                        "plugin `{}` has a new version, {}",
                        resolution.choice,
                        version.identity.manifest.version
                    );
                }
                Ok(serving.insert(version).plugin.clone())
            }
            (Err(error), Some(old)) => {
                if old.seen.files != now.files {
                    tracing::error!(
                        "the new version of plugin `{}` is not used: {error}; the old one goes on",
                        resolution.choice
                    );
                }
                old.seen = now;
                Ok(old.plugin.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

/// What tells that the files of a plugin were changed, without reading them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamps {
    /// Of component, manifest and signature, those that are there. A built-in plugin has no files, and never changes.
    files: Vec<Option<Stamp>>,
    /// Whether the last change was so long before the look that a later one can't have the same time.
    settled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// The kernel's own time of the last change, which nobody can set back.
    changed: (i64, i64),
}

/// File systems keep times to the kernel's tick, 1 to 10 ms, or on some to 2 s: a file can change twice in one.
const SETTLES_AFTER: Duration = Duration::from_millis(2500);

impl Stamps {
    fn of(plugin: &PluginRef) -> Self {
        let files: Vec<_> = plugin.files().iter().map(|path| Stamp::of(path)).collect();
        let settled = files.iter().flatten().all(Stamp::is_settled);
        Self { files, settled }
    }

    /// Whether a version with these stamps is still what the files hold, now that they have the stamps `now`.
    fn still_true(&self, now: &Self) -> bool {
        self.settled && self.files == now.files
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    fn is_settled(&self) -> bool {
        let changed = u64::try_from(self.changed.0).unwrap_or(0);
        let changed = SystemTime::UNIX_EPOCH + Duration::new(changed, self.changed.1 as u32);
        changed.elapsed().is_ok_and(|age| age > SETTLES_AFTER)
    }
}

/// A panic while a lock was held left nothing half done: values are put in whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::mpsc;

    use super::super::bindings::formatting::{Formatted, FormatterConfig, TrainingRecord};
    use super::super::bindings::types::{Example, InstructionExample, Lineage};
    use super::super::{Limits, PluginKind, SigningKey};
    use super::*;

    const ALPACA: &[u8] = include_bytes!("../../../plugins/dist/alpaca-formatter.wasm");
    const TERSE: &[u8] = include_bytes!("../../../tests/guests/dist/terse-formatter.wasm");

    struct Home {
        root: tempfile::TempDir,
        host: PluginHost,
        resolution: Resolution,
    }

    /// A host and a formatter, `mine.wasm`, with these bytes.
    fn home(component: &[u8]) -> Home {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("mine.wasm");
        fs::write(&path, component).unwrap();
        let engine = PluginEngine::new(Limits::default()).unwrap();
        let resolution = Resolution::of(PluginRef::File(path), PluginKind::Formatter, Some("routing"));
        Home { root, host: PluginHost::new(engine), resolution }
    }

    impl Home {
        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn formatter(&self) -> Arc<Formatter> {
            self.host.formatter(&self.resolution).unwrap()
        }

        /// Moves the files' changes into the past, as far as the host knows.
        fn settle(&self) {
            for slot in lock(&self.host.formatters.slots).values() {
                lock(&slot.serving).as_mut().unwrap().seen.settled = true;
            }
        }
    }

    /// `terse` or `alpaca`, by what it makes of an example.
    fn format(formatter: &Formatter) -> &'static str {
        let lineage = Lineage { span_ids: vec![], trace_id: String::new(), session_id: None, annotation_names: vec![] };
        let (instruction, input, output) = ("Route".into(), "q".into(), "a".into());
        let example =
            Example::Instruction(InstructionExample { instruction, input, output, corrected: false, lineage });
        let config = FormatterConfig { agent_type: "routing".into(), settings: vec![] };
        match &formatter.format(&config, &[example]).unwrap()[..] {
            [Formatted::Ready(TrainingRecord::PromptCompletion(_))] => "terse",
            [Formatted::Ready(TrainingRecord::Text(_))] => "alpaca",
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_plugin_whose_file_changes_is_another_on_its_next_use_and_the_same_in_calls_under_way() {
        let home = home(TERSE);
        let before = home.formatter();
        assert_eq!(format(&before), "terse");
        assert!(Arc::ptr_eq(&before, &home.formatter()));
        fs::write(home.path("mine.wasm"), ALPACA).unwrap();
        assert_eq!(format(&home.formatter()), "alpaca");
        assert_eq!(format(&before), "terse");
    }

    #[test]
    fn files_that_stay_as_they_are_are_not_read_again() {
        let home = home(TERSE);
        let before = home.formatter();
        home.settle();
        // Read, they would be taken for a new version; the stamps alone say that nothing changed.
        for slot in lock(&home.host.formatters.slots).values() {
            lock(&slot.serving).as_mut().unwrap().identity.component.clear();
        }
        assert!(Arc::ptr_eq(&before, &home.formatter()));
    }

    #[test]
    fn a_change_within_a_tick_of_the_file_systems_clock_is_seen() {
        let home = home(TERSE);
        home.formatter();
        // As if both were written in one tick, to one size: the stamps are those of the old bytes.
        fs::write(home.path("mine.wasm"), ALPACA).unwrap();
        let now = Stamps::of(&home.resolution.choice.plugin.plugin);
        assert!(!now.settled);
        for slot in lock(&home.host.formatters.slots).values() {
            lock(&slot.serving).as_mut().unwrap().seen = now.clone();
        }
        assert_eq!(format(&home.formatter()), "alpaca");
    }

    #[test]
    fn a_half_copied_component_leaves_the_old_one_serving_until_it_is_whole() {
        let home = home(TERSE);
        let before = home.formatter();
        fs::write(home.path("mine.wasm"), &ALPACA[..ALPACA.len() / 2]).unwrap();
        assert!(Arc::ptr_eq(&before, &home.formatter()));
        home.settle();
        assert!(Arc::ptr_eq(&before, &home.formatter()));
        fs::write(home.path("mine.wasm"), ALPACA).unwrap();
        assert_eq!(format(&home.formatter()), "alpaca");
        fs::remove_file(home.path("mine.wasm")).unwrap();
        assert_eq!(format(&home.formatter()), "alpaca");
    }

    /// What is logged goes here.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            lock(&self.0).write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_version_that_is_refused_is_told_once() {
        let home = home(TERSE);
        home.formatter();
        fs::write(home.path("mine.wasm"), "no component").unwrap();
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).without_time().with_target(false);
        tracing::subscriber::with_default(log.with_writer(move || writer.clone()).finish(), || {
            for _ in 0..3 {
                assert_eq!(format(&home.formatter()), "terse");
            }
        });
        let path = home.path("mine.wasm");
        assert_eq!(
            String::from_utf8(lock(&lines.0).clone()).unwrap(),
            format!(
                "ERROR the new version of plugin `{}` is not used: plugin `mine` is not a WebAssembly component: it does not \
                 start with `\\0asm`; build it as a component (core module + `wit-component`), not as a plain module; the \
                 old one goes on\n",
                path.display()
            )
        );
    }

    #[test]
    fn a_version_with_a_wrong_signature_never_serves() {
        let home = home(TERSE);
        let manifest = "name = \"mine\"\nversion = \"1\"\nkind = \"formatter\"\nwit = \"0.1\"\ndescription = \"\"\n\
                        agent_types = [\"*\"]\n";
        fs::write(home.path("plugin.toml"), manifest).unwrap();
        let key = SigningKey::create(&home.path("key")).unwrap();
        PluginPackage::sign(&home.path("mine.wasm"), &key).unwrap();
        assert_eq!(home.formatter().identity().signer, Some(key.public()));
        fs::write(home.path("mine.wasm"), ALPACA).unwrap();
        assert_eq!(format(&home.formatter()), "terse");
        PluginPackage::sign(&home.path("mine.wasm"), &key).unwrap();
        assert_eq!(format(&home.formatter()), "alpaca");
    }

    #[test]
    fn a_manifest_alone_makes_a_new_version() {
        let home = home(TERSE);
        assert_eq!(home.formatter().identity().version, "unversioned");
        let manifest = "name = \"mine\"\nversion = \"2\"\nkind = \"formatter\"\nwit = \"0.1\"\ndescription = \"\"\n\
                        agent_types = [\"*\"]\n";
        fs::write(home.path("plugin.toml"), manifest).unwrap();
        assert_eq!(home.formatter().identity().version, "2");
    }

    #[test]
    fn a_first_version_that_is_bad_is_an_error_on_every_use_until_it_is_good() {
        let home = home(b"no component");
        for _ in 0..2 {
            assert!(matches!(home.host.formatter(&home.resolution), Err(PluginError::NotAComponent { .. })));
        }
        fs::write(home.path("mine.wasm"), TERSE).unwrap();
        assert_eq!(format(&home.formatter()), "terse");
    }

    #[test]
    fn rows_do_not_share_a_plugin_and_a_built_in_one_never_changes() {
        let home = home(TERSE);
        let acme = Resolution { tenant: "acme".into(), ..home.resolution.clone() };
        assert!(!Arc::ptr_eq(&home.formatter(), &home.host.formatter(&acme).unwrap()));
        let policy = Resolution::of(PluginRef::parse("threshold-policy"), PluginKind::Policy, None);
        let [first, second] = [0, 1].map(|_| home.host.policy(&policy).unwrap());
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn nobody_waits_for_a_new_version_that_another_thread_reads() {
        let home = home(TERSE);
        let before = home.formatter();
        fs::write(home.path("mine.wasm"), ALPACA).unwrap();
        let (reading, is_read) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        std::thread::scope(|scope| {
            let (formatters, resolution, engine) = (&home.host.formatters, &home.resolution, &home.host.engine);
            let reader = scope.spawn(move || {
                formatters.get(resolution, |package| {
                    reading.send(()).unwrap();
                    may_go_on.recv().unwrap();
                    Formatter::load(engine, package)
                })
            });
            is_read.recv().unwrap();
            assert!(Arc::ptr_eq(&before, &home.formatter()));
            go_on.send(()).unwrap();
            assert_eq!(format(&reader.join().unwrap().unwrap()), "alpaca");
        });
        assert_eq!(format(&home.formatter()), "alpaca");
    }
}
