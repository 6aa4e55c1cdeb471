"""What each command of `kaitoflow` does; imported only when it is typed."""
