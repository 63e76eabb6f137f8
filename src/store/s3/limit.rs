//! Keeping to a bandwidth: bodies go and come in small pieces, each of which is paid for.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextMut,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// Bytes that go at once.
const PIECE: usize = 16 << 10;

/// What was not used is kept for so long.
const BURST: Duration = Duration::from_millis(100);

/// One way of the line.
#[derive(Debug)]
struct Way {
    /// Bytes a second.
    rate: u64,
    /// When the next piece may go.
    next: Mutex<Option<Instant>>,
}

impl Way {
    /// Pays for `bytes`; the payer may go on at the time that is given.
    fn pay(&self, bytes: usize) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let micros = (bytes as u64).saturating_mul(1_000_000) / self.rate.max(1);
        let until = next.unwrap_or(earliest).max(earliest) + Duration::from_micros(micros);
        *next = Some(until);
        until
    }
}

/// Slows the bodies of requests and answers, each way by itself.
#[derive(Debug)]
pub struct Limit {
    up: Arc<Way>,
    down: Arc<Way>,
}

impl Limit {
    /// At most `rate` bytes a second, each way.
    pub fn new(rate: u64) -> Self {
        let way = || Arc::new(Way { rate, next: Mutex::default() });
        Self { up: way(), down: way() }
    }
}

fn slow(body: &mut SdkBody, way: &Arc<Way>) {
    let inner = std::mem::replace(body, SdkBody::taken());
    *body = SdkBody::from_body_1_x(Slowed { inner, way: Arc::clone(way), held: Bytes::new(), sleep: None });
}

impl Intercept for Limit {
    fn name(&self) -> &'static str {
        "Limit"
    }

    // Signed already, and never tried again: what is sent may be a stream.
    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        slow(context.request_mut().body_mut(), &self.up);
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        slow(context.response_mut().body_mut(), &self.down);
        Ok(())
    }
}

/// A body that is slowed.
struct Slowed {
    inner: SdkBody,
    way: Arc<Way>,
    /// What was taken from the body and is not paid for.
    held: Bytes,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Body for Slowed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            if !self.held.is_empty() {
                let len = self.held.len().min(PIECE);
                let piece = self.held.split_to(len);
                let until = self.way.pay(len);
                if until > Instant::now() {
                    self.sleep = Some(Box::pin(tokio::time::sleep_until(until)));
                }
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.held = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.len() as u64;
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + held);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + held);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_the_time_that_they_may() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let way = Arc::new(Way { rate: 1 << 20, next: Mutex::default() });
            let mut body = SdkBody::from(vec![7_u8; 512 << 10]);
            slow(&mut body, &way);
            assert_eq!(Body::size_hint(&body).exact(), Some(512 << 10));
            let began = Instant::now();
            let mut got = 0;
            while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                let data = frame.unwrap().into_data().unwrap();
                assert!(data.iter().all(|b| *b == 7) && data.len() <= PIECE);
                got += data.len();
            }
            assert_eq!(got, 512 << 10);
            // Never less; how much more is the machine's affair.
            assert!(began.elapsed() > Duration::from_millis(350), "{:?}", began.elapsed());
        });
    }
}
