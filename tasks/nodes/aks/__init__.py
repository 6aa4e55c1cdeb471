"""Claims fulfilled by agent pools of an AKS cluster, through Azure's own clients."""
