{{/* What each service account may do in the namespaces of Workspaces; what it sees of all others
when those are named; and what it may do with what lies in none. tests/chart holds the proof. */}}

{{- define "kaitoflow.rules.watcher" -}}
# Follows Workspaces, keeps its finalizer on them, and says in their status what it did.
- {apiGroups: [kaito.sh], resources: [workspaces], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [kaito.sh], resources: [workspaces/status], verbs: [patch]}
# Has the members of InferenceSets, the Service before them, and what lets drains take one at a time.
- {apiGroups: [policy], resources: [poddisruptionbudgets], verbs: [get, list, watch, create, patch]}
- {apiGroups: [kaito.sh], resources: [inferencesets], verbs: [get, list, watch]}
- {apiGroups: [kaito.sh], resources: [inferencesets/status], verbs: [patch]}
- {apiGroups: [kaito.sh], resources: [inferencesets/finalizers], verbs: [update]}
# Tells what has become of a Workspace while no run does.
- {apiGroups: [""], resources: [events], verbs: [get, create, patch]}
# Sees whether servers are ready, and what is left of those that were stopped.
- {apiGroups: [""], resources: [pods], verbs: [list, watch]}
# Sees whether what a Workspace is made into is still there; it asks for the metadata alone.
- {apiGroups: [""], resources: [configmaps], verbs: [list, watch]}
- {apiGroups: [""], resources: [services], verbs: [get, list, watch, create, patch]}
# Hears when what a failed Workspace lacks is there: a volume claim, or room in its namespace.
- {apiGroups: [""], resources: [persistentvolumeclaims, resourcequotas, limitranges], verbs: [list, watch]}
# The same, and stops what runs when a person asks for it.
- {apiGroups: [apps], resources: [statefulsets], verbs: [list, watch, delete]}
- {apiGroups: [apps], resources: [controllerrevisions], verbs: [list, watch]}
- {apiGroups: [batch], resources: [jobs], verbs: [list, delete]}
{{- end -}}

{{- define "kaitoflow.rules.watcher.watching" -}}
# One watch shows what is in all namespaces; what may be done is another matter.
- {apiGroups: [kaito.sh], resources: [workspaces, inferencesets], verbs: [list, watch]}
{{- end -}}

{{- define "kaitoflow.rules.watcher.cluster" -}}
# Begins to watch when the CRD comes, and again when it has changed.
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [list, watch]}
# Sees whether the nodes of Workspaces are there and ready.
- {apiGroups: [""], resources: [nodes], verbs: [list, watch]}
{{- if ne .Values.nodes.provisioner "byo" }}
- {apiGroups: [karpenter.sh], resources: [nodeclaims], verbs: [list, watch]}
{{- end }}
{{- end -}}

{{- define "kaitoflow.rules.worker" -}}
# Applies a Workspace that came from a form, keeps its status, drops its finalizer at the end; sees
# which others publish under one name.
- {apiGroups: [kaito.sh], resources: [workspaces], verbs: [get, list, create, patch]}
- {apiGroups: [kaito.sh], resources: [workspaces/status], verbs: [patch]}
# Lets what it makes be owned by its Workspace, where the cluster asks for this right.
- {apiGroups: [kaito.sh], resources: [workspaces/finalizers], verbs: [update]}
# What a Workspace is made into.
- {apiGroups: [""], resources: [configmaps, services], verbs: [get, list, create, patch, delete]}
- {apiGroups: [apps], resources: [statefulsets], verbs: [get, list, create, patch, delete]}
# What of it is served, from which that is restored while an edit is refused.
- {apiGroups: [apps], resources: [controllerrevisions], verbs: [get, list, create, patch, delete]}
- {apiGroups: [batch], resources: [jobs], verbs: [get, list, watch, create, patch, delete]}
# Follows the pods and what is said of them. Makes one in dry runs alone (admission.yaml), to hear what
# Pod Security and policies say.
- {apiGroups: [""], resources: [pods], verbs: [list, watch, create]}
- {apiGroups: [""], resources: [pods/log], verbs: [get]}
# Has what trains on a node that is about to be taken away end in order, as a drain does.
- {apiGroups: [""], resources: [pods/eviction], verbs: [create]}
# Whether the volume claims that a Workspace names can be used.
- {apiGroups: [""], resources: [persistentvolumeclaims], verbs: [get]}
# What the namespace lets its pods have.
- {apiGroups: [""], resources: [resourcequotas, limitranges], verbs: [list]}
- {apiGroups: [""], resources: [events], verbs: [get, list, create, patch]}
# Whether the Secrets that a Workspace names are there; never a list of them.
- {apiGroups: [""], resources: [secrets], verbs: [get]}
{{- end -}}

{{- define "kaitoflow.rules.worker.watching" -}}
# One watch shows what is in all namespaces; what may be done is another matter.
- {apiGroups: [""], resources: [pods], verbs: [list, watch]}
- {apiGroups: [batch], resources: [jobs], verbs: [list, watch]}
{{- end -}}

{{- define "kaitoflow.rules.worker.cluster" -}}
# Waits for nodes that fit.
- {apiGroups: [""], resources: [nodes], verbs: [get, list]}
# GPUs that a driver of Dynamic Resource Allocation tells of, and who holds them.
- {apiGroups: [resource.k8s.io], resources: [resourceslices, deviceclasses, resourceclaims], verbs: [list]}
{{- if ne .Values.nodes.provisioner "byo" }}
# Claims nodes, gives them back, and sees who else still runs on one.
- {apiGroups: [karpenter.sh], resources: [nodeclaims], verbs: [list, create, patch, delete]}
- {apiGroups: [kaito.sh], resources: [workspaces], verbs: [list]}
{{- if eq .Values.nodes.provisioner "aks" }}
- {apiGroups: [karpenter.sh], resources: [nodeclaims/status], verbs: [patch]}
{{- end }}
{{- end }}
{{- end -}}

{{/* Takes SECRET/KEY of each. A right to create cannot be given by name. */}}
{{- define "kaitoflow.rules.passwords" -}}
- {apiGroups: [""], resources: [secrets], verbs: [create]}
- apiGroups: [""]
  resources: [secrets]
  resourceNames:
    {{- range . }}
    - {{ splitList "/" . | first }}
    {{- end }}
  verbs: [get]
{{- end -}}

{{- define "kaitoflow.rules.uninstall" -}}
# Whether Helm has made the Job that asks, or somebody who applied all manifests.
- {apiGroups: [batch], resources: [jobs], verbs: [get]}
{{- end -}}

{{- define "kaitoflow.rules.uninstall.workspaces" -}}
- {apiGroups: [kaito.sh], resources: [workspaces, inferencesets], verbs: {{ ternary (list "list" "delete") (list "list") .Values.uninstall.drain | toJson }}}
{{- end -}}
