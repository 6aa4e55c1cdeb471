// What holds a pod's namespaces open, as registry.k8s.io/pause does.
module kaitoflow.test/pause

go 1.26.0

tool kaitoflow.test/pause
