module rayplane.example/tests/kubernetes/tools/pause

go 1.26
