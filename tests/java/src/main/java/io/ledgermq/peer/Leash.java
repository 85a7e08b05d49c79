package io.ledgermq.peer;

import java.io.IOException;

/**
 * Ties this process to the test that started it: when standard input ends, work is to stop. A test that dies closes it
 * too, so that no peer outlives its test.
 */
final class Leash {
    private volatile boolean cut;

    Leash() {
        Thread watcher = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                    // Only the end counts.
                }
            } catch (IOException e) {
                // As good as the end.
            }
            cut = true;
            synchronized (this) {
                notifyAll();
            }
        }, "leash");
        watcher.setDaemon(true);
        watcher.start();
    }

    boolean cut() {
        return cut;
    }

    synchronized void await() throws InterruptedException {
        while (!cut) {
            wait();
        }
    }

    /** Waits at most this long; true when the leash was cut. */
    synchronized boolean await(long millis) throws InterruptedException {
        if (!cut && millis > 0) {
            wait(millis);
        }
        return cut;
    }
}
