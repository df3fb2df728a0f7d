use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Whether the server shuts down: set once, seen by every stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closing {
    /// Beside the token, because asking that takes a lock which all streams share.
    flag: Arc<AtomicBool>,
    token: CancellationToken,
}

impl Closing {
    pub(crate) fn begin(&self) {
        self.flag.store(true, Ordering::Release);
        self.token.cancel();
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    pub(crate) async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// For something that is polled often.
    pub(crate) fn watch(&self) -> ClosingWatch {
        ClosingWatch {
            flag: Arc::clone(&self.flag),
            wait: Box::pin(self.token.clone().cancelled_owned()),
            registered: None,
        }
    }
}

/// Wakes its task when the shutdown begins.
#[derive(Debug)]
pub(crate) struct ClosingWatch {
    flag: Arc<AtomicBool>,
    wait: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Who is woken. The future is polled only when that changes.
    registered: Option<Waker>,
}

impl ClosingWatch {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        if self.flag.load(Ordering::Acquire) {
            return true;
        }
        if self
            .registered
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            return false;
        }
        self.registered = Some(cx.waker().clone());
        self.wait.as_mut().poll(cx).is_ready()
    }
}
