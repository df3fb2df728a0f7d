//! What the consensus engine runs on: tokio, and in a simulation the chance of the seed.

#[cfg(not(feature = "simulated"))]
pub(crate) use openraft_rt_tokio::TokioRuntime as Runtime;
#[cfg(feature = "simulated")]
pub(crate) use simulated::Runtime;

#[cfg(feature = "simulated")]
mod simulated {
    use std::{future::Future, io, time::Duration};

    use openraft_rt::{AsyncRuntime, OptionalSend};
    use openraft_rt_tokio::TokioRuntime as Inner;
    use rand::{SeedableRng, rngs::SmallRng};

    /// Tokio, but for chance.
    #[derive(Debug)]
    pub(crate) struct Runtime(Inner);

    impl AsyncRuntime for Runtime {
        type JoinError = <Inner as AsyncRuntime>::JoinError;
        type JoinHandle<T: OptionalSend + 'static> = <Inner as AsyncRuntime>::JoinHandle<T>;
        type Sleep = <Inner as AsyncRuntime>::Sleep;
        type Instant = <Inner as AsyncRuntime>::Instant;
        type TimeoutError = <Inner as AsyncRuntime>::TimeoutError;
        type Timeout<R, T: Future<Output = R> + OptionalSend> =
            <Inner as AsyncRuntime>::Timeout<R, T>;
        type ThreadLocalRng = SmallRng;
        type Mpsc = <Inner as AsyncRuntime>::Mpsc;
        type Watch = <Inner as AsyncRuntime>::Watch;
        type Oneshot = <Inner as AsyncRuntime>::Oneshot;
        type Mutex<T: OptionalSend + 'static> = <Inner as AsyncRuntime>::Mutex<T>;

        fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
        where
            T: Future + OptionalSend + 'static,
            T::Output: OptionalSend + 'static,
        {
            Inner::spawn(future)
        }

        fn sleep(duration: Duration) -> Self::Sleep {
            Inner::sleep(duration)
        }

        fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
            Inner::sleep_until(deadline)
        }

        fn timeout<R, F>(duration: Duration, future: F) -> Self::Timeout<R, F>
        where
            F: Future<Output = R> + OptionalSend,
        {
            Inner::timeout(duration, future)
        }

        fn timeout_at<R, F>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F>
        where
            F: Future<Output = R> + OptionalSend,
        {
            Inner::timeout_at(deadline, future)
        }

        fn is_panic(error: &Self::JoinError) -> bool {
            Inner::is_panic(error)
        }

        fn thread_rng() -> SmallRng {
            SmallRng::seed_from_u64(tidings_host::random())
        }

        fn new(threads: usize) -> Self {
            Runtime(Inner::new(threads))
        }

        fn block_on<F, T>(&mut self, future: F) -> T
        where
            F: Future<Output = T>,
        {
            self.0.block_on(future)
        }

        fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>> + Send
        where
            F: FnOnce() -> T + Send + 'static,
            T: Send + 'static,
        {
            let done = tidings_host::spawn_blocking(work);
            async move { done.await.map_err(io::Error::other) }
        }
    }
}
