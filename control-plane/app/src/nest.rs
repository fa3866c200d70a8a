//! One task for a connection and everything that is asked over it: what arrives wakes it once, and its answers leave
//! with it. A task for each stream would wake another one with every message, and be woken back.

use std::{
    cell::Cell,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use hyper::rt::Executor;

type Child = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes in the streams of a connection.
#[derive(Clone, Default)]
pub(crate) struct Nest(Arc<Mutex<Vec<Child>>>);

impl Nest {
    fn children(&self) -> MutexGuard<'_, Vec<Child>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Nest {
    fn execute(&self, future: F) {
        self.children().push(Box::pin(future));
    }
}

/// A connection, and its streams. They end with it.
pub(crate) struct Nested<C> {
    connection: C,
    nest: Nest,
    own: Flag,
    streams: Vec<(Child, Flag)>,
    task: Arc<Task>,
}

/// Whether somebody has work, so that only he is asked.
struct Flag {
    raised: Arc<Raised>,
    waker: Waker,
}

struct Raised {
    is_raised: AtomicBool,
    task: Arc<Task>,
}

/// The task around them.
#[derive(Default)]
struct Task {
    waker: Mutex<Option<Waker>>,
    /// Where it runs at the moment: who raises a flag there need not wake it, since all flags are looked at again.
    runs_on: AtomicUsize,
}

/// Turns before others have theirs: a connection is done after two or three.
const MAX_TURNS: usize = 32;

impl Wake for Raised {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_raised.store(true, Ordering::Release);
        if self.task.runs_on.load(Ordering::Acquire) != this_thread()
            && let Some(waker) = &*self.task.waker()
        {
            waker.wake_by_ref();
        }
    }
}

impl Task {
    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flag {
    fn raised(task: &Arc<Task>) -> Self {
        let raised = Arc::new(Raised { is_raised: AtomicBool::new(true), task: task.clone() });
        Self { waker: raised.clone().into(), raised }
    }

    fn take(&self) -> bool {
        self.raised.is_raised.swap(false, Ordering::AcqRel)
    }
}

/// Different for each thread that lives, and never 0.
fn this_thread() -> usize {
    thread_local!(static PLACE: Cell<u8> = const { Cell::new(0) });
    PLACE.with(|place| std::ptr::from_ref(place).addr())
}

impl<C> Nested<C> {
    /// `nest` is what the connection gives its streams to.
    pub(crate) fn new(connection: C, nest: Nest) -> Self {
        let task = Arc::<Task>::default();
        Self { connection, nest, own: Flag::raised(&task), streams: Vec::new(), task }
    }

    /// The connection itself: to shut it down. It is asked again afterwards.
    pub(crate) fn connection(&mut self) -> Pin<&mut C>
    where
        C: Unpin,
    {
        self.own.waker.wake_by_ref();
        Pin::new(&mut self.connection)
    }
}

impl<C: Future + Unpin> Future for Nested<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        let this = &mut *self;
        {
            let mut waker = this.task.waker();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
        }
        this.task.runs_on.store(this_thread(), Ordering::Release);
        let polled = this.turns();
        this.task.runs_on.store(0, Ordering::Release);
        polled.unwrap_or_else(|| {
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }
}

impl<C: Future + Unpin> Nested<C> {
    /// `None` when there would be more to do.
    fn turns(&mut self) -> Option<Poll<C::Output>> {
        for _ in 0..MAX_TURNS {
            let mut is_done = true;
            if self.own.take() {
                is_done = false;
                let mut context = Context::from_waker(&self.own.waker);
                if let Poll::Ready(end) = Pin::new(&mut self.connection).poll(&mut context) {
                    return Some(Poll::Ready(end));
                }
                let new = std::mem::take(&mut *self.nest.children());
                self.streams.extend(new.into_iter().map(|child| (child, Flag::raised(&self.task))));
            }
            self.streams.retain_mut(|(stream, flag)| {
                if !flag.take() {
                    return true;
                }
                is_done = false;
                stream.as_mut().poll(&mut Context::from_waker(&flag.waker)).is_pending()
            });
            if is_done {
                return Some(Poll::Pending);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use tokio::sync::mpsc;

    use super::*;

    /// A connection that ends when its streams have told it to.
    fn connection(mut told: mpsc::Receiver<u32>) -> Pin<Box<dyn Future<Output = Vec<u32>> + Send>> {
        Box::pin(async move {
            let mut all = Vec::new();
            while let Some(number) = told.recv().await {
                all.push(number);
            }
            all
        })
    }

    #[tokio::test]
    async fn a_connection_and_its_streams_wake_one_another() {
        let (tell, told) = mpsc::channel(1);
        let nest = Nest::default();
        for number in 0..3 {
            let tell = tell.clone();
            nest.execute(async move {
                // Three turns each: the channel has room for one.
                for turn in 0..3 {
                    tell.send(number * 10 + turn).await.unwrap();
                }
            });
        }
        drop(tell);
        let mut all = Nested::new(connection(told), nest).await;
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 10, 11, 12, 20, 21, 22]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stream_is_woken_from_elsewhere() {
        let (tell, told) = mpsc::channel(1);
        let nest = Nest::default();
        nest.execute(async move {
            let elsewhere = tokio::task::spawn_blocking(std::thread::yield_now);
            elsewhere.await.unwrap();
            tell.send(7).await.unwrap();
        });
        assert_eq!(tokio::spawn(Nested::new(connection(told), nest)).await.unwrap(), [7]);
    }

    #[tokio::test]
    async fn a_stream_that_never_rests_leaves_others_their_turn() {
        let (tell, told) = mpsc::channel(1);
        let nest = Nest::default();
        let turns = Arc::<AtomicU32>::default();
        let counted = turns.clone();
        nest.execute(std::future::poll_fn(move |context| {
            counted.fetch_add(1, Ordering::Relaxed);
            context.waker().wake_by_ref();
            Poll::Pending
        }));
        let nested = tokio::spawn(Nested::new(connection(told), nest));
        tokio::task::yield_now().await;
        // One thread: that this runs at all is what is asked.
        let turns = turns.load(Ordering::Relaxed) as usize;
        assert!(turns > 0 && turns.is_multiple_of(MAX_TURNS), "{turns}");
        drop(tell);
        assert_eq!(nested.await.unwrap(), [0; 0]);
    }
}
