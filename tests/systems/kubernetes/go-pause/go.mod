// The process that holds a pod's namespaces.
module qhub.test/pause

go 1.24.0

tool qhub.test/pause
