{{/* Values that a schema cannot judge, refused with what to do. */}}

{{- define "kaitoflow.checks" -}}
{{- if and .Values.allNamespaces .Values.namespaces -}}
{{- fail "allNamespaces was asked for, and namespaces names some; leave one of them out" -}}
{{- end -}}
{{- if not (or .Values.allNamespaces .Values.namespaces) -}}
{{- fail "Workspaces were to be run; no namespace is named; set namespaces={team-a,team-b}, or allNamespaces=true, with which the worker may read any Secret by its name, and change Jobs and Services, in every namespace" -}}
{{- end -}}
{{- if and .Values.networkPolicy.workspaces.enabled .Values.allNamespaces -}}
{{- fail "networkPolicy.workspaces was asked for; allNamespaces leaves open where; name the namespaces in which Workspaces are run" -}}
{{- end -}}
{{- if and .Values.devicePlugin.enabled (eq .Values.nodes.provisioner "aks") .Values.nodes.azure.managesGpus -}}
{{- fail "devicePlugin.enabled was asked for; AKS brings one to the pools that are made (nodes.azure.managesGpus), and two of a node count its GPUs in turn; set one of the two to false" -}}
{{- end -}}
{{- range $name := .Values.pods.insecureRegistries -}}
{{- if not (regexMatch "^[A-Za-z0-9.-]+(:[0-9]+)?$" $name) -}}
{{- fail (printf "pods.insecureRegistries names %q; a registry is spoken to as host or host:port; leave out the scheme and what follows" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Takes (list NAME IMAGE) of .Values.image. */}}
{{- define "kaitoflow.checkImage" -}}
{{- $name := first . -}}
{{- $image := last . -}}
{{- $asked := printf "image.%s.repository is %q" $name $image.repository -}}
{{- if contains "://" $image.repository -}}
{{- fail (printf "%s; an image's name has no scheme; remove what stands before ://" $asked) -}}
{{- else if contains "@" $image.repository -}}
{{- fail (printf "%s; it holds a digest; move that to image.%s.digest" $asked $name) -}}
{{- else if contains ":" (splitList "/" $image.repository | last) -}}
{{- fail (printf "%s; it holds a tag; move that to image.%s.tag" $asked $name) -}}
{{- else if not (regexMatch "^(([A-Za-z0-9-]+[.:][A-Za-z0-9.:-]+|localhost)/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$" $image.repository) -}}
{{- fail (printf "%s; no registry can have a repository of that name; write it as host/path, the path in small letters" $asked) -}}
{{- end -}}
{{- $asked = printf "image.%s.tag is %q" $name $image.tag -}}
{{- if contains "sha256" $image.tag -}}
{{- fail (printf "%s; it holds a digest; move sha256:... to image.%s.digest" $asked $name) -}}
{{- else if and $image.tag (not (regexMatch "^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$" $image.tag)) -}}
{{- fail (printf "%s; a tag has letters, digits, dots, dashes and underscores, 128 at most; write the tag alone" $asked) -}}
{{- end -}}
{{- end -}}

{{- define "kaitoflow.checkRegistry" -}}
{{- $asked := printf "image.registry is %q" . -}}
{{- if contains "://" . -}}
{{- fail (printf "%s; images are pulled by name, which has no scheme; remove what stands before ://" $asked) -}}
{{- else if contains "@" . -}}
{{- fail (printf "%s; it holds a password or a digest; put logins into image.pullSecrets, digests into image.control.digest" $asked) -}}
{{- else if and . (not (regexMatch "^[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*/?$" .)) -}}
{{- fail (printf "%s; it is taken for host, host:port or host/path, the path in small letters; write it so" $asked) -}}
{{- end -}}
{{- end -}}
