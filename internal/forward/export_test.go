package forward

// CutOff is the error of a drain that could not wait any longer.
var CutOff = cutOff
