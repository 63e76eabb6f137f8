//! Storing objects: small ones in one request, larger ones in parts, a few at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, StorageClass};
use bytes::Bytes;
use tokio::task::JoinSet;

use super::Bucket;
use super::fault::{Class, Fault};

/// Larger objects go in parts.
pub const WHOLE_MAX: usize = 5 << 20;

/// Bytes of a part; only the last may have less.
const PART: usize = 8 << 20;

/// Parts on their way at once, which bounds the memory.
const AT_ONCE: usize = 4;

/// An upload that was lost (swept by another process, say) is begun again so often.
const AGAIN: usize = 2;

/// Pages of a listing of uploads; a store that has more is not ours alone.
const PAGES: usize = 1000;

impl Bucket {
    fn class(&self) -> Option<StorageClass> {
        self.settings.storage_class.as_deref().map(StorageClass::from)
    }

    /// Stores an object in one request; with `absent` only where there is none. Says whether it
    /// was stored.
    pub async fn put_whole(&self, name: &str, data: &[u8], absent: bool) -> Result<bool, Fault> {
        let body = Bytes::copy_from_slice(data);
        let tries = AtomicU32::new(0);
        let put = self.run(data.len(), |n| {
            tries.store(n, Relaxed);
            let request = self.client().put_object().bucket(&self.settings.bucket).key(name);
            let request = request.set_storage_class(self.class()).set_if_none_match(absent.then(|| "*".to_owned()));
            let request = request.body(ByteStream::from(body.clone()));
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        match put.await {
            Ok(_) => Ok(true),
            Err(fault) if absent && fault.class == Class::Exists => {
                // An attempt that answered with an error may have stored it.
                Ok(tries.load(Relaxed) > 0
                    && self.get(name, data.len() as u64).await?.is_some_and(|there| there == data))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Stores an object in parts. What is not completed is taken back.
    pub async fn put_parts(self: &Arc<Self>, name: &str, data: &[u8]) -> Result<(), Fault> {
        let mut again = 0;
        loop {
            let upload = self.begin(name).await?;
            let done = match self.send_parts(name, &upload, data).await {
                Ok(parts) => self.complete(name, &upload, parts).await,
                Err(fault) => Err(fault),
            };
            let Err(fault) = done else { return Ok(()) };
            self.abort(name, &upload).await;
            again += 1;
            if fault.class != Class::Restart || again > AGAIN {
                return Err(fault);
            }
        }
    }

    async fn begin(&self, name: &str) -> Result<String, Fault> {
        let begun = self.run(0, |_| {
            let request = self.client().create_multipart_upload().bucket(&self.settings.bucket).key(name);
            let request = request.set_storage_class(self.class());
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        begun.await?.upload_id.filter(|id| !id.is_empty()).ok_or_else(|| Fault::refused("it gave an upload no id"))
    }

    async fn send_parts(self: &Arc<Self>, name: &str, upload: &str, data: &[u8]) -> Result<Vec<CompletedPart>, Fault> {
        let mut left = (1_i32..).zip(data.chunks(PART));
        // Dropped with an error, it stops what is on its way.
        let mut sending = JoinSet::new();
        let mut parts = Vec::new();
        loop {
            while sending.len() < AT_ONCE
                && let Some((number, part)) = left.next()
            {
                let (bucket, name, upload) = (Arc::clone(self), name.to_owned(), upload.to_owned());
                let part = Bytes::copy_from_slice(part);
                sending.spawn(async move { bucket.send_part(&name, &upload, number, part).await });
            }
            match sending.join_next().await {
                None => break,
                Some(Ok(done)) => parts.push(done?),
                Some(Err(e)) => return Err(Fault::refused(format!("sending a part ended unexpectedly ({e})"))),
            }
        }
        parts.sort_by_key(CompletedPart::part_number);
        Ok(parts)
    }

    async fn send_part(&self, name: &str, upload: &str, number: i32, part: Bytes) -> Result<CompletedPart, Fault> {
        let sent = self.run(part.len(), |_| {
            let request = self.client().upload_part().bucket(&self.settings.bucket).key(name);
            let request = request.upload_id(upload).part_number(number).body(ByteStream::from(part.clone()));
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        let tag = sent.await?.e_tag.ok_or_else(|| Fault::refused("it gave a part no ETag"))?;
        Ok(CompletedPart::builder().part_number(number).e_tag(tag).build())
    }

    async fn complete(&self, name: &str, upload: &str, parts: Vec<CompletedPart>) -> Result<(), Fault> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let completed = self.run(0, |_| {
            let request = self.client().complete_multipart_upload().bucket(&self.settings.bucket).key(name);
            let request = request.upload_id(upload).multipart_upload(parts.clone());
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        completed.await.map(drop)
    }

    /// Takes an upload back. What it misses, a sweep finds.
    async fn abort(&self, name: &str, upload: &str) {
        let aborted = self.run(0, |_| {
            let request = self.client().abort_multipart_upload().bucket(&self.settings.bucket).key(name);
            let request = request.upload_id(upload);
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        match aborted.await {
            Err(fault) if fault.class != Class::Restart => {
                tracing::debug!("an upload to {} was not taken back: {}", self.settings.title(), fault.said);
            }
            _ => {}
        }
    }

    /// Takes back uploads that were begun and not completed, and gives their number.
    pub async fn sweep(&self) -> Result<usize, Fault> {
        let (mut key, mut upload) = (None::<String>, None::<String>);
        let mut swept = 0;
        for _ in 0..PAGES {
            let page = self.run(0, |_| {
                let request = self.client().list_multipart_uploads().bucket(&self.settings.bucket);
                let request = request.set_prefix((!self.prefix.is_empty()).then(|| self.prefix.clone()));
                let request = request.set_key_marker(key.clone()).set_upload_id_marker(upload.clone());
                async move { request.send().await.map_err(|e| Fault::of(&e)) }
            });
            let page = page.await?;
            for open in page.uploads() {
                let (Some(name), Some(id)) = (open.key(), open.upload_id()) else { continue };
                if name.strip_prefix(&self.prefix).is_some_and(is_ours) {
                    self.abort(name, id).await;
                    swept += 1;
                }
            }
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if page.is_truncated != Some(true) || next.0.is_none() || next == (key.clone(), upload.clone()) {
                return Ok(swept);
            }
            (key, upload) = next;
        }
        Ok(swept)
    }
}

/// Whether a key is one that we would send in parts: it ends in an id. Where there is no prefix,
/// uploads of others lie beside ours.
fn is_ours(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or_default();
    super::check_key(key).is_ok() && name.len() >= 32 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn uploads_of_others_are_left_alone() {
        let id = "0123456789abcdef".repeat(4);
        assert!(is_ours(&format!("packs/01/{id}")) && is_ours(&format!("index/{id}")));
        for other in ["video.mp4", "backups/db.tar", "a/", "", "Packs/x", "packs/01/short"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
