package io.ledgermq.peer;

import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Sends messages with DefaultMQProducer and writes what happened. Modes: sync, async, oneway, batch (lists of ten),
 * ordered (one queue per key by a selector, each message sent again under the same id until it is acknowledged), and pinned
 * (one thread for each queue that the topic has at the start, which sends to that queue alone).
 */
public final class Produce {
    /** Answers after which nothing of the message can be in the log: illegal, not available, no permission, no topic, bad parameter. */
    private static final Set<Integer> SURELY_NOTHING = Set.of(13, 14, 16, 17, 29);
    private static final int BATCH = 10;
    private static final int ASYNC_IN_FLIGHT = 256;
    private static final long PAUSE_AFTER_FAILURE_MS = 50;

    private final Options options;
    private final History history;
    private final Leash leash = new Leash();
    private final DefaultMQProducer producer;
    private final String process;
    private final String topic;
    private final String mode;
    private final int size;
    private final int attempts;
    private final AtomicLong nextOp = new AtomicLong();

    private Produce(Options options) {
        this.options = options;
        process = options.text("process");
        history = new History(process);
        topic = options.text("topic");
        mode = options.text("mode");
        size = options.number("size", 200);
        int retries = options.number("retries", 0);
        attempts = 1 + retries;
        producer = new DefaultMQProducer(options.text("group"));
        options.connect(producer, process, 30_000);
        producer.setRetryTimesWhenSendFailed(retries);
        producer.setRetryTimesWhenSendAsyncFailed(retries);
        producer.setSendMsgTimeout(options.number("timeout-ms", 3_000));
        producer.setDefaultTopicQueueNums(options.number("queues", 4));
    }

    public static void main(String[] args) throws Exception {
        new Produce(new Options(args)).run();
    }

    private void run() throws Exception {
        producer.start();
        history.mark("started");
        int count = options.number("count", Integer.MAX_VALUE);
        long pauseMs = options.number("pause-ms", 0);
        Semaphore inFlight = new Semaphore(ASYNC_IN_FLIGHT);
        if (mode.equals("pinned")) {
            pinned(pauseMs);
            count = 0;
        }
        for (int n = 0; n < count && !leash.cut(); n++) {
            switch (mode) {
                case "sync" -> sync(message(n));
                case "async" -> async(message(n), inFlight);
                case "oneway" -> oneway(message(n));
                case "ordered" -> ordered(message(n), n % options.number("keys", 16));
                case "batch" -> {
                    batch(n, Math.min(BATCH, count - n));
                    n += BATCH - 1;
                }
                default -> throw new IllegalArgumentException("no such mode: " + mode);
            }
            leash.await(pauseMs);
        }
        if (!inFlight.tryAcquire(ASYNC_IN_FLIGHT, 30, TimeUnit.SECONDS)) {
            history.mark("callbacks are missing");
        }
        history.mark("done");
        leash.await();
        producer.shutdown();
        history.mark("stopped");
        System.exit(0);
    }

    private record Out(Payload payload, Message message) {}

    private Out message(int n) {
        Payload payload = Payload.of(process + "-" + n, size);
        Message message = new Message(topic, payload.bytes());
        if (options.number("words", 0) != 0) {
            Words.speak(message, payload.id(), n);
        }
        return new Out(payload, message);
    }

    private long invoke(Out out) {
        long op = nextOp.getAndIncrement();
        history.invoke(op, out.payload, topic, attempts);
        return op;
    }

    private void settle(long op, SendResult result) {
        if (result.getSendStatus() == SendStatus.SEND_OK) {
            history.ok(op, result.getMessageQueue(), result.getQueueOffset());
        } else {
            history.unknown(op, result.getSendStatus().name());
        }
    }

    private void settle(long op, Throwable e) {
        boolean nothing = attempts == 1
            && e instanceof MQBrokerException
            && SURELY_NOTHING.contains(((MQBrokerException) e).getResponseCode());
        if (nothing) {
            history.fail(op, e.toString());
        } else {
            history.unknown(op, e.toString());
        }
    }

    private void sync(Out out) throws InterruptedException {
        long op = invoke(out);
        try {
            settle(op, producer.send(out.message));
        } catch (InterruptedException e) {
            throw e;
        } catch (Exception e) {
            settle(op, e);
            leash.await(PAUSE_AFTER_FAILURE_MS);
        }
    }

    private void ordered(Out out, int key) throws InterruptedException {
        while (!leash.cut()) {
            long op = invoke(out);
            try {
                SendResult result =
                    producer.send(out.message, (queues, m, arg) -> queues.get((Integer) arg % queues.size()), key);
                settle(op, result);
                if (result.getSendStatus() == SendStatus.SEND_OK) {
                    return;
                }
            } catch (InterruptedException e) {
                throw e;
            } catch (Exception e) {
                settle(op, e);
            }
            leash.await(PAUSE_AFTER_FAILURE_MS);
        }
    }

    /** Ends when the leash is cut. The client itself never repeats a send to a named queue. */
    private void pinned(long pauseMs) throws Exception {
        List<Thread> threads = new ArrayList<>();
        for (MessageQueue queue : producer.fetchPublishMessageQueues(topic)) {
            Thread thread = new Thread(() -> {
                try {
                    for (int n = 0; !leash.cut(); n++) {
                        Payload payload = Payload.of(process + "-" + queue.getBrokerName() + "-" + queue.getQueueId() + "-" + n, size);
                        long op = invoke(new Out(payload, null));
                        try {
                            settle(op, producer.send(new Message(topic, payload.bytes()), queue));
                        } catch (InterruptedException e) {
                            throw e;
                        } catch (Exception e) {
                            settle(op, e);
                        }
                        leash.await(pauseMs);
                    }
                } catch (InterruptedException e) {
                    Thread.currentThread().interrupt();
                }
            });
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) {
            thread.join();
        }
    }

    private void async(Out out, Semaphore inFlight) throws InterruptedException {
        inFlight.acquire();
        long op = invoke(out);
        try {
            producer.send(out.message, new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    settle(op, result);
                    inFlight.release();
                }

                @Override
                public void onException(Throwable e) {
                    settle(op, e);
                    inFlight.release();
                }
            });
        } catch (InterruptedException e) {
            throw e;
        } catch (Exception e) {
            settle(op, e);
            inFlight.release();
        }
    }

    private void oneway(Out out) throws InterruptedException {
        long op = invoke(out);
        try {
            producer.sendOneway(out.message);
            history.unknown(op, "one-way");
        } catch (InterruptedException e) {
            throw e;
        } catch (Exception e) {
            settle(op, e);
        }
    }

    /** One acknowledgement for the list: consecutive offsets from the one it names. */
    private void batch(int first, int length) throws InterruptedException {
        List<Message> messages = new ArrayList<>();
        List<Long> ops = new ArrayList<>();
        for (int n = first; n < first + length; n++) {
            Out out = message(n);
            messages.add(out.message);
            ops.add(invoke(out));
        }
        try {
            SendResult result = producer.send(messages);
            for (int i = 0; i < length; i++) {
                if (result.getSendStatus() == SendStatus.SEND_OK) {
                    history.ok(ops.get(i), result.getMessageQueue(), result.getQueueOffset() + i);
                } else {
                    history.unknown(ops.get(i), result.getSendStatus().name());
                }
            }
        } catch (InterruptedException e) {
            throw e;
        } catch (Exception e) {
            ops.forEach(op -> settle(op, e));
        }
    }
}
