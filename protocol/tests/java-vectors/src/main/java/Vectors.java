import com.alibaba.fastjson2.JSON;
import com.alibaba.fastjson2.JSONWriter;
import io.netty.buffer.Unpooled;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.rocketmq.common.MQVersion;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.UtilAll;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.sysflag.MessageSysFlag;
import org.apache.rocketmq.remoting.protocol.DataVersion;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;
import org.apache.rocketmq.remoting.protocol.RemotingSerializable;
import org.apache.rocketmq.remoting.protocol.SerializeType;
import org.apache.rocketmq.remoting.protocol.admin.ConsumeStats;
import org.apache.rocketmq.remoting.protocol.body.ClusterInfo;
import org.apache.rocketmq.remoting.protocol.body.RegisterBrokerBody;
import org.apache.rocketmq.remoting.protocol.body.ResetOffsetBody;
import org.apache.rocketmq.remoting.protocol.header.SendMessageRequestHeaderV2;
import org.apache.rocketmq.remoting.protocol.header.SendMessageResponseHeader;
import org.apache.rocketmq.remoting.protocol.header.PullMessageResponseHeader;
import org.apache.rocketmq.remoting.protocol.heartbeat.HeartbeatData;
import org.apache.rocketmq.remoting.protocol.route.TopicRouteData;

/**
 * Two things with the official library: makes vectors (first argument), and reads what LedgerMQ wrote (second argument) and says
 * what it found there (third).
 */
public class Vectors {
    static final String UNICODE = "订单 é 😀 \"quoted\" back\\slash \t tab";

    public static void main(String[] args) throws Exception {
        write(args[0], official());
        Map<String, String> found = new TreeMap<>();
        Map<String, String> ours = JSON.parseObject(Files.readString(Path.of(args[1])), TreeMap.class);
        for (Map.Entry<String, String> one : ours.entrySet()) {
            found.put(one.getKey(), read(one.getKey(), bytes(one.getValue())));
        }
        write(args[2], found);
        System.exit(0);
    }

    static void write(String file, Map<String, String> vectors) throws Exception {
        Files.writeString(Path.of(file), JSON.toJSONString(vectors, JSONWriter.Feature.PrettyFormat) + "\n");
    }

    static Map<String, String> official() throws Exception {
        Map<String, String> out = new TreeMap<>();
        Map<String, String> properties = new TreeMap<>();
        properties.put("TAGS", "标签");
        properties.put("KEYS", "k1 ключ 😀");
        properties.put("free", UNICODE);
        String text = MessageDecoder.messageProperties2String(properties);
        out.put("properties.unicode", text);

        SendMessageRequestHeaderV2 send = new SendMessageRequestHeaderV2();
        send.setA("PG");
        send.setB("Topic");
        send.setC("TBW102");
        send.setD(4);
        send.setE(-1);
        send.setF(0);
        send.setG(1700000000000L);
        send.setH(0);
        send.setI(text);
        for (SerializeType type : SerializeType.values()) {
            RemotingCommand request = RemotingCommand.createRequestCommand(310, send);
            out.put("frame.send_unicode." + type, frame(request, type, UNICODE.getBytes(StandardCharsets.UTF_8)));
            RemotingCommand response = RemotingCommand.createResponseCommand(1, UNICODE);
            out.put("frame.error_unicode." + type, frame(response, type, null));
            RemotingCommand heartbeat = RemotingCommand.createRequestCommand(34, null);
            out.put("frame.no_fields." + type, frame(heartbeat, type, "{}".getBytes(StandardCharsets.UTF_8)));
        }

        MessageExt message = message("Topic", UNICODE, properties, "10.0.0.1", "2001:db8::7");
        message.setStoreHostAddressV6Flag();
        out.put("record.v1.mixed_hosts", hex(MessageDecoder.encode(message, false)));
        MessageExt committed = message("Topic", "", properties, "10.0.0.1", "10.0.0.2");
        committed.setSysFlag(MessageSysFlag.TRANSACTION_COMMIT_TYPE);
        committed.setPreparedTransactionOffset(1L << 40);
        committed.setCommitLogOffset((1L << 40) + 512);
        committed.setReconsumeTimes(16);
        out.put("record.v1.committed_empty_body", hex(MessageDecoder.encode(committed, false)));

        Message one = new Message("Topic", UNICODE.getBytes(StandardCharsets.UTF_8));
        one.setFlag(-5);
        MessageAccessor.setProperties(one, properties);
        Message two = new Message("Topic", new byte[0]);
        out.put("batch.unicode", hex(MessageDecoder.encodeMessages(Arrays.asList(one, two))));

        RegisterBrokerBody body = new RegisterBrokerBody();
        DataVersion version = new DataVersion();
        version.setStateVersion(7);
        version.setTimestamp(1700000000000L);
        version.setCounter(new java.util.concurrent.atomic.AtomicLong(9));
        body.getTopicConfigSerializeWrapper().setDataVersion(version);
        TopicConfig plain = new TopicConfig("%RETRY%group", 1, 2, 6);
        TopicConfig typed = new TopicConfig("Orders", 8, 4, 7);
        typed.getAttributes().put("message.type", "FIFO");
        body.getTopicConfigSerializeWrapper().getTopicConfigTable().put("%RETRY%group", plain);
        body.getTopicConfigSerializeWrapper().getTopicConfigTable().put("Orders", typed);
        body.setFilterServerList(new ArrayList<>(List.of("10.0.0.9:1")));
        out.put("register.compressed", hex(body.encode(true)));
        out.put("register.plain", hex(body.encode(false)));
        out.put("register.compressed.crc", String.valueOf(UtilAll.crc32(body.encode(true))));
        for (String tag : List.of("", "标签", "😀", "polygenelubricants", "TagA || TagB")) {
            out.put("hash." + tag, String.valueOf(tag.hashCode()));
        }
        return out;
    }

    static MessageExt message(String topic, String body, Map<String, String> properties, String born, String store)
        throws Exception {
        MessageExt message = new MessageExt();
        message.setTopic(topic);
        message.setBody(body.getBytes(StandardCharsets.UTF_8));
        message.setBodyCRC(UtilAll.crc32(message.getBody()));
        MessageAccessor.setProperties(message, new TreeMap<>(properties));
        message.setQueueId(3);
        message.setFlag(-1);
        message.setQueueOffset(Integer.MAX_VALUE + 1L);
        message.setCommitLogOffset(4096);
        message.setBornTimestamp(1700000000000L);
        message.setStoreTimestamp(1700000000001L);
        message.setBornHost(new InetSocketAddress(born, 65535));
        message.setStoreHost(new InetSocketAddress(store, 10911));
        return message;
    }

    static String frame(RemotingCommand command, SerializeType type, byte[] body) {
        command.setVersion(MQVersion.CURRENT_VERSION);
        command.setOpaque(42);
        command.setSerializeTypeCurrentRPC(type);
        command.setBody(body);
        ByteBuffer encoded = command.encode();
        byte[] bytes = new byte[encoded.remaining()];
        encoded.get(bytes);
        return hex(bytes);
    }

    /** What the library finds in bytes of ours; the name says what they are. */
    static String read(String name, byte[] bytes) {
        try {
            switch (name.split("\\.")[0]) {
                case "frame":
                    RemotingCommand command = RemotingCommand.decode(Unpooled.wrappedBuffer(bytes, 4, bytes.length - 4));
                    Object header = name.contains("send_ok") ? command.decodeCommandCustomHeader(SendMessageResponseHeader.class)
                        : name.contains("pull_found") ? command.decodeCommandCustomHeader(PullMessageResponseHeader.class) : null;
                    return command.getCode() + "|" + command.getLanguage() + "|" + command.getVersion() + "|"
                        + command.getOpaque() + "|" + command.getFlag() + "|" + command.getRemark() + "|"
                        + (command.getExtFields() == null ? null : new TreeMap<>(command.getExtFields())) + "|"
                        + (command.getBody() == null ? 0 : command.getBody().length) + "|"
                        + (header instanceof SendMessageResponseHeader ? ((SendMessageResponseHeader) header).getQueueOffset()
                        : header instanceof PullMessageResponseHeader ? ((PullMessageResponseHeader) header).getNextBeginOffset() : "");
                case "records":
                    StringBuilder all = new StringBuilder();
                    for (MessageExt message : MessageDecoder.decodes(ByteBuffer.wrap(bytes))) {
                        all.append(message.getTopic().length()).append('|').append(new String(message.getBody(), StandardCharsets.UTF_8))
                            .append('|').append(new TreeMap<>(message.getProperties())).append('|').append(message.getQueueId())
                            .append('|').append(message.getFlag()).append('|').append(message.getQueueOffset()).append('|')
                            .append(message.getCommitLogOffset()).append('|').append(message.getSysFlag()).append('|')
                            .append(message.getBornTimestamp()).append('|').append(message.getBornHostString()).append('|')
                            .append(message.getStoreTimestamp()).append('|').append(message.getReconsumeTimes()).append('|')
                            .append(message.getPreparedTransactionOffset()).append('|').append(message.getStoreSize()).append('\n');
                    }
                    return all.toString();
                case "batch":
                    StringBuilder batch = new StringBuilder();
                    for (Message message : MessageDecoder.decodeMessages(ByteBuffer.wrap(bytes))) {
                        batch.append(message.getFlag()).append('|').append(message.getBody().length).append('|')
                            .append(new TreeMap<>(message.getProperties())).append('\n');
                    }
                    return batch.toString();
                case "route":
                    TopicRouteData route = TopicRouteData.decode(bytes, TopicRouteData.class);
                    return route.getBrokerDatas().get(0).getBrokerAddrs().get(0L) + "|" + route;
                case "cluster":
                    ClusterInfo cluster = RemotingSerializable.decode(bytes, ClusterInfo.class);
                    return cluster.getBrokerAddrTable().get("broker-a").getBrokerAddrs().get(0L) + "|" + cluster.getClusterAddrTable();
                case "consume_stats":
                    ConsumeStats stats = RemotingSerializable.decode(bytes, ConsumeStats.class);
                    StringBuilder offsets = new StringBuilder();
                    stats.getOffsetTable().forEach((queue, offset) -> offsets.append(queue).append(offset.getConsumerOffset()));
                    return stats.getConsumeTps() + "|" + offsets;
                case "reset":
                    return RemotingSerializable.decode(bytes, ResetOffsetBody.class).getOffsetTable().toString();
                case "heartbeat":
                    HeartbeatData heartbeat = RemotingSerializable.decode(bytes, HeartbeatData.class);
                    return heartbeat.getClientID() + "|" + heartbeat.getProducerDataSet() + "|" + heartbeat.getConsumerDataSet();
                case "register":
                    boolean compressed = name.endsWith("compressed");
                    RegisterBrokerBody body = RegisterBrokerBody.decode(bytes, compressed, MQVersion.Version.V5_4_0);
                    return UtilAll.crc32(bytes) + "|" + new TreeMap<>(body.getTopicConfigSerializeWrapper().getTopicConfigTable())
                        + "|" + body.getTopicConfigSerializeWrapper().getDataVersion().toJson();
                default:
                    return "unknown kind";
            }
        } catch (Throwable error) {
            return "FAILED " + error;
        }
    }

    static String hex(byte[] bytes) {
        return UtilAll.bytes2string(bytes).toLowerCase();
    }

    static byte[] bytes(String hex) {
        return UtilAll.string2bytes(hex);
    }
}
