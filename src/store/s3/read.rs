//! Reading, listing and deleting. Nothing that a store says is taken on trust: lengths are
//! compared, listings are bounded, and an answer that is cut short is an error.

use std::collections::BTreeMap;

use aws_sdk_s3::primitives::ByteStream;

use super::Bucket;
use super::fault::{Class, Fault};
use crate::store::ObjectMeta;

/// The most objects of one listing; a store that names more is not believed.
const OBJECTS: usize = 1 << 24;

/// Pages in a row that bring nothing new; then the listing runs in a circle.
const FRUITLESS: usize = 8;

/// Room that is made for an answer before any of it came.
const AHEAD: usize = 8 << 20;

impl Bucket {
    /// The whole object, or `None` if it is larger than `limit`.
    pub async fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, Fault> {
        let get = self.run(usize::try_from(limit).unwrap_or(usize::MAX), |_| {
            let request = self.client().get_object().bucket(&self.settings.bucket).key(name);
            async move {
                let answer = self.retry.soon(request.send()).await?.map_err(|e| Fault::of(&e))?;
                let told = answer.content_length.and_then(|n| u64::try_from(n).ok());
                if told.is_some_and(|n| n > limit) {
                    return Ok(None);
                }
                let Some(data) = self.collect(answer.body, limit).await? else { return Ok(None) };
                match told {
                    Some(told) if told != data.len() as u64 => {
                        Err(Fault::busy(format!("it sent {} bytes of {told}", data.len())))
                    }
                    _ => Ok(Some(data)),
                }
            }
        });
        get.await
    }

    /// Exactly `len` bytes (not 0) from `offset`.
    pub async fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let last = offset.saturating_add(len as u64 - 1);
        let get = self.run(len, |_| {
            let request = self.client().get_object().bucket(&self.settings.bucket).key(name);
            let request = request.range(format!("bytes={offset}-{last}"));
            async move {
                let answer = self.retry.soon(request.send()).await?.map_err(|e| Fault::of(&e))?;
                let told = answer.content_length.and_then(|n| usize::try_from(n).ok());
                match answer.content_range.as_deref().and_then(range) {
                    Some((first, end)) if first == offset && end == last => {}
                    Some((first, end)) if first == offset && end < last => {
                        return Err(Fault::new(Class::Short, "the object ends before that"));
                    }
                    // All of it, where all of it was asked for.
                    None if offset == 0 && told == Some(len) => {}
                    _ => return Err(Fault::refused("it sent another part of the object than it was asked for")),
                }
                match self.collect(answer.body, len as u64).await? {
                    Some(data) if data.len() == len => Ok(data),
                    _ => Err(Fault::busy("it sent another number of bytes than it was asked for")),
                }
            }
        });
        get.await
    }

    /// The object's size, or `None` if there is none.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, Fault> {
        let head = self.run(0, |_| {
            let request = self.client().head_object().bucket(&self.settings.bucket).key(name);
            async move { request.send().await.map_err(|e| Fault::of_head(&e)) }
        });
        match head.await {
            Ok(answer) => {
                let size = answer.content_length.and_then(|n| u64::try_from(n).ok());
                size.map(Some).ok_or_else(|| Fault::refused("it did not say how large the object is"))
            }
            Err(fault) if fault.class == Class::Missing => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// All objects whose name starts with `name`; their keys are without the bucket's prefix.
    pub async fn list(&self, name: &str) -> Result<Vec<ObjectMeta>, Fault> {
        let mut found = BTreeMap::new();
        let mut token = None::<String>;
        let mut fruitless = 0;
        loop {
            let page = self.run(0, |_| {
                let request = self.client().list_objects_v2().bucket(&self.settings.bucket).prefix(name);
                let request = request.set_continuation_token(token.clone());
                async move { request.send().await.map_err(|e| Fault::of(&e)) }
            });
            let page = page.await?;
            let before = found.len();
            for object in page.contents() {
                let key = object.key().filter(|key| key.starts_with(name) && !key.ends_with('/'));
                let Some(key) = key.and_then(|key| key.strip_prefix(&self.prefix)) else { continue };
                let size = object.size().and_then(|n| u64::try_from(n).ok());
                let size = size.ok_or_else(|| Fault::refused("it lists an object without its size"))?;
                found.insert(key.to_owned(), size);
            }
            if page.is_truncated != Some(true) {
                break;
            }
            fruitless = if found.len() > before { 0 } else { fruitless + 1 };
            let next = page.next_continuation_token;
            if next.is_none() || next == token || fruitless > FRUITLESS || found.len() > OBJECTS {
                return Err(Fault::refused("its listing has no end"));
            }
            token = next;
        }
        Ok(found.into_iter().map(|(key, size)| ObjectMeta { key, size }).collect())
    }

    /// Removes an object; one that is not there is no error.
    pub async fn delete(&self, name: &str) -> Result<(), Fault> {
        let delete = self.run(0, |_| {
            let request = self.client().delete_object().bucket(&self.settings.bucket).key(name);
            async move { request.send().await.map_err(|e| Fault::of(&e)) }
        });
        match delete.await {
            Err(fault) if fault.class != Class::Missing => Err(fault),
            _ => Ok(()),
        }
    }

    /// The bytes of a body, or `None` if there are more than `limit`.
    async fn collect(&self, mut body: ByteStream, limit: u64) -> Result<Option<Vec<u8>>, Fault> {
        let mut data = Vec::with_capacity(usize::try_from(limit).unwrap_or(usize::MAX).min(AHEAD));
        while let Some(piece) = self.retry.soon(body.next()).await? {
            let piece = piece.map_err(|e| Fault::busy(format!("its answer was cut short ({e})")))?;
            if (data.len() + piece.len()) as u64 > limit {
                return Ok(None);
            }
            data.extend_from_slice(&piece);
        }
        Ok(Some(data))
    }
}

/// First and last byte of `bytes 0-9/100`.
fn range(text: &str) -> Option<(u64, u64)> {
    let (first, rest) = text.trim().strip_prefix("bytes ")?.split_once('-')?;
    let (last, _) = rest.split_once('/')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn ranges_are_read() {
        assert_eq!(range("bytes 0-9/100"), Some((0, 9)));
        assert_eq!(range("bytes 5-9/*"), Some((5, 9)));
        for text in ["", "bytes */100", "bytes 0-9", "items 0-9/100", "bytes -1-9/100"] {
            assert_eq!(range(text), None, "{text}");
        }
    }
}
