//! Offline tools: verify, dump and compare the logs of stopped replicas.
