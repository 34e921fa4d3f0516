use super::{JobHandle, RemoteError, TrainingBackend};

/// More than a person reads, and less than a host runs out of.
const MOST: usize = 16 << 20;

/// All that a job wrote so far, of a longer one its first 16 MiB.
///
/// # Errors
/// Those of [`TrainingBackend::logs`].
pub(crate) fn whole(backend: &dyn TrainingBackend, handle: &JobHandle) -> Result<Vec<u8>, RemoteError> {
    let (mut log, mut from) = (Vec::new(), 0);
    loop {
        let chunk = backend.logs(handle, from)?;
        if chunk.bytes.is_empty() || log.len() > MOST {
            return Ok(log);
        }
        log.extend(chunk.bytes);
        from = chunk.next;
    }
}
