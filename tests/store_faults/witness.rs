//! Who looks into the database file at the moment that a caller is told a result. It has a
//! connection that was made before anything failed, so that a full disk is no excuse.

use std::{collections::HashMap, time::Duration};

use tokio::{
    sync::{Mutex, Notify},
    time::{sleep, timeout},
};

use crate::{disk::Disk, second::Second};

/// How long the database may not be opened while things fail.
const LONGEST_OPENING: Duration = Duration::from_secs(15);

pub struct Witness {
    second: Mutex<(Second, bool)>,
    opened: Notify,
}

impl Witness {
    /// One without a connection yet.
    pub fn new(disk: &Disk) -> Self {
        let second = Second::beside(disk.holder(), &disk.database());
        Self { second: Mutex::new((second, false)), opened: Notify::new() }
    }

    /// How often this was said, as the file says now. After a kill, when nothing can come to
    /// the file any more, it is what the file says when it can be opened again.
    pub async fn how_often(&self, said: &str) -> u64 {
        loop {
            let opened = self.opened.notified();
            let mut second = self.second.lock().await;
            if second.1 {
                let answer = second.0.how_often(said).await;
                return answer.unwrap_or_else(|error| panic!("cannot look for {said}: {error}"));
            }
            drop(second);
            opened.await;
        }
    }

    /// How often each word with this beginning was said.
    pub async fn counts(&self, beginning: &str) -> HashMap<String, u64> {
        self.second.lock().await.0.counts(beginning).await
    }

    pub async fn open(&self) {
        let mut second = self.second.lock().await;
        let opening = async {
            while let Err(error) = second.0.opens().await {
                println!("cannot look yet: {error}");
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LONGEST_OPENING, opening).await.expect("the database can be opened");
        second.1 = true;
        self.opened.notify_waiters();
    }

    /// Lets go of the file, so that the next service finds it as a killed one left it.
    pub async fn close(&self) {
        let mut second = self.second.lock().await;
        second.0.closes().await;
        second.1 = false;
    }
}
