"""The names of the work pools: of one machine's runs, and of a cluster's."""

LOCAL_POOL = "local"
CLUSTER_POOL = "kaitoflow"
